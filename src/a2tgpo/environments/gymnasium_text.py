"""Play a Gymnasium environment of few actions in words: each action has a name, each state a picture of characters."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

from a2tgpo.environments.environment import Action, InvalidAction, Row, StepResult, Tool
from a2tgpo.errors import needs_extra

_COLOURED = re.compile(r"\x1b\[[0-9;]*m(.*?)\x1b\[0m", re.DOTALL)
"""A rendered picture highlights the place where the player stands."""


class GymnasiumText:
    """Play one episode (an `Environment`), begun by the row's `seed`, if it has one.

    Args:
        environment: name in Gymnasium; it renders as text (`render_mode="ansi"`).
        actions: their names, in the order of the environment's numbers.
        describe: turns the environment and its last observation into words; None for the picture it renders, with
            brackets around the player.
        options: of the environment, such as `is_slippery`.

    Raises:
        MissingExtra: the `gymnasium` package is not installed.
    """

    def __init__(
        self,
        environment: str,
        actions: Sequence[str],
        describe: Callable[[Any, Any], str] | None = None,
        **options: Any,
    ) -> None:
        with needs_extra("games", f"the environment {environment}"):
            import gymnasium
        self._world = gymnasium.make(environment, render_mode="ansi", **options)
        self._actions = tuple(actions)
        self._describe = describe or _picture
        self.tools = (Tool("move", f"Do one of: {', '.join(actions)}."),)

    def reset(self, row: Row) -> str:
        """Begin an episode."""
        seed = row.get("seed")
        seen, _ = self._world.reset(seed=seed if isinstance(seed, int) else None)
        return "\n" + self._describe(self._world, seen)

    def step(self, action: Action) -> StepResult:
        """Do one action.

        Raises:
            InvalidAction: it has no such name.
        """
        name = action.text.strip().lower()
        if name not in self._actions:
            raise InvalidAction(f"there is no action {name[:40]!r}; there are {', '.join(self._actions)}")
        seen, reward, terminated, truncated, _ = self._world.step(self._actions.index(name))
        return StepResult(self._describe(self._world, seen), float(reward), done=bool(terminated or truncated))

    def fork(self) -> GymnasiumText:
        """Return a copy that goes on by itself."""
        return copy.deepcopy(self)

    def close(self) -> None:
        """Close the environment."""
        self._world.close()


def frozen_lake(**options: Any) -> GymnasiumText:
    """Return FrozenLake in words: S the start, F ice, H a hole, G the goal; by default it does not slip."""
    options = {"is_slippery": False} | options
    return GymnasiumText("FrozenLake-v1", ("left", "down", "right", "up"), **options)


def _picture(world: Any, seen: Any) -> str:
    lines = _COLOURED.sub(r"[\1]", world.render()).strip().splitlines()
    # The first line names the last action, which the policy knows.
    return "\n".join(line for line in lines if not line.strip().startswith("("))
