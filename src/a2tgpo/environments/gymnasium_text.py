"""Play a Gymnasium environment of few actions in words: each action has a name, each state a picture of characters."""

from __future__ import annotations

import copy
import random
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from a2tgpo.environments.environment import Action, InvalidAction, Row, StepResult, Tool
from a2tgpo.errors import ToolError, needs_extra

MOVES = ("left", "down", "right", "up")

ASTRAY = 0.25
"""Share of demonstrated moves that are any."""

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
        name = action.said.strip().lower()
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


class FrozenLake(GymnasiumText):
    """Walk over FrozenLake in words: S the start, F ice, H a hole, G the goal, which is success.

    Args:
        size: of a map that the row's `seed` draws anew for each episode; None for the environment's own of 4 × 4.
        frozen: share of places that are ice, of maps that are drawn.
        options: of the environment; by default it does not slip.

    Raises:
        MissingExtra: the `gymnasium` package is not installed.
    """

    def __init__(self, size: int | None = None, frozen: float = 0.8, **options: Any) -> None:
        self._options = {"is_slippery": False} | options
        self._size, self._frozen = size, frozen
        self.success = False
        super().__init__("FrozenLake-v1", MOVES, **self._options)

    @staticmethod
    def rows(n: int, seed: int) -> list[dict[str, Any]]:
        """Return `n` rows, each with a seed of its own."""
        asked = "Walk from S to G over F; H is a hole."
        return [{"prompt": asked, "seed": number} for number in range(seed * 10**6, seed * 10**6 + n)]

    def reset(self, row: Row) -> str:
        """Draw the map, where it is to be drawn, and begin.

        Raises:
            ToolError: the row has no seed to draw it by.
        """
        self.success = False
        if self._size is not None:
            import gymnasium
            from gymnasium.envs.toy_text.frozen_lake import generate_random_map

            if not isinstance(seed := row.get("seed"), int):
                raise ToolError(f"the row's seed is {seed!r}; give the data set a column seed of whole numbers")
            drawn = generate_random_map(self._size, self._frozen, seed)
            self._world.close()
            self._world = gymnasium.make("FrozenLake-v1", render_mode="ansi", desc=drawn, **self._options)
        return super().reset(row)

    @staticmethod
    def demonstrate(row: Row, said: Sequence[str]) -> str:
        """Walk a shortest way, except for a step now and then, drawn by the row's `seed`."""
        drawn = random.Random(f"{row.get('seed')} {len(said)}")
        move = drawn.choice(MOVES) if drawn.random() < ASTRAY else _shortest_way(said[-1])
        return f"<move> {move} </move>"

    def step(self, action: Action) -> StepResult:
        """Do one move."""
        result = super().step(action)
        self.success = result.done and (result.reward or 0.0) >= 1.0
        return result


def _shortest_way(picture: str) -> str:
    """Return the first move of a shortest way from the place in brackets to G, over anything but H."""
    lines = [re.findall(r"\[\w\]|\w", line) for line in picture.split()]
    places = {(y, x): cell for y, line in enumerate(lines) for x, cell in enumerate(line)}
    start = next(place for place, cell in places.items() if cell.startswith("["))
    steps = dict(zip(MOVES, ((0, -1), (1, 0), (0, 1), (-1, 0)), strict=True))
    queue, seen = deque([(start, "")]), {start}
    while queue:
        (y, x), first = queue.popleft()
        if places[y, x] == "G":
            return first
        for move, (dy, dx) in steps.items():
            place = y + dy, x + dx
            if places.get(place, "H") != "H" and place not in seen:
                seen.add(place)
                queue.append((place, first or move))
    return MOVES[0]


def _picture(world: Any, seen: Any) -> str:
    lines = _COLOURED.sub(r"[\1]", world.render()).strip().splitlines()
    # The first line names the last action, which the policy knows.
    return "\n".join(line for line in lines if not line.strip().startswith("("))
