"""Load what a recipe names of the user's own: reward functions and judges of turns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from a2tgpo.environments.loading import load_object
from a2tgpo.errors import RecipeError
from a2tgpo.rewards import exact_match_reward
from a2tgpo.signals import ProcessSignal, TurnFunction


def load_rewards(paths: Sequence[str] | None) -> list[Callable[..., Any]]:
    """Return the reward functions at dotted paths, the paper's exact match where there are none.

    Raises:
        RecipeError: a path leads nowhere, or to something that cannot be called.
    """
    return [exact_match_reward] if not paths else [_load("reward", path) for path in paths]


def load_turn_signal(path: str | None) -> ProcessSignal | None:
    """Return the judge of turns at a dotted path: a function of one transcript, or a `ProcessSignal` or its class.

    Raises:
        RecipeError: the path leads nowhere, or to something that cannot be called.
    """
    if path is None:
        return None
    found = _load("turn_signal", path)
    if inspect.isroutine(found):
        return TurnFunction(found)
    signal: Any = found() if inspect.isclass(found) else found
    return cast("ProcessSignal", signal)


def _load(key: str, path: str) -> Any:
    try:
        found = load_object(path)
    except ValueError as error:
        raise RecipeError(f"{key} {error}") from error
    if not callable(found):
        raise RecipeError(f"{key} {path!r} is a {type(found).__name__}; give a function")
    return found
