"""Load what a recipe names of the user's own: reward functions and judges of turns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from a2tgpo.environments.loading import load_object
from a2tgpo.errors import RecipeError
from a2tgpo.rewards import exact_match_reward
from a2tgpo.signals import Judge, ProcessSignal, TurnFunction


def load_rewards(
    paths: Sequence[str] | None, default: Sequence[Callable[..., Any]] = (exact_match_reward,)
) -> list[Callable[..., Any]]:
    """Return the reward functions at dotted paths, `default` where there are none.

    Raises:
        RecipeError: a path leads nowhere, or to something that cannot be called.
    """
    return list(default) if not paths else [load_function("reward", path) for path in paths]


def load_turn_signal(path: str | None, judge: Mapping[str, Any] | str | None = None) -> ProcessSignal | None:
    """Return what numbers the turns: a function of one transcript, a `ProcessSignal` or its class at a dotted path, or
    the `Judge` that `judge` has the arguments of.

    Raises:
        RecipeError: the path leads nowhere, or to something that cannot be called; or the judge lacks an argument, has
            one that there is not, or one out of its range.
    """
    if judge is not None:
        assert not isinstance(judge, str), "the recipe has read it"
        return _judge(judge)
    if path is None:
        return None
    found = load_function("turn_signal", path)
    if inspect.isroutine(found):
        return TurnFunction(found)
    signal: Any = found() if inspect.isclass(found) else found
    return cast("ProcessSignal", signal)


def _judge(arguments: Mapping[str, Any]) -> Judge:
    try:
        inspect.signature(Judge).bind(**arguments)
    except TypeError as error:
        names = ", ".join(inspect.signature(Judge).parameters)
        raise RecipeError(f"judge: {error}; it takes {names}") from error
    try:
        return Judge(**arguments)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"judge: {error}") from error


def load_function(key: str, path: str) -> Any:
    """Return what the recipe's `key` names, if it can be called.

    Raises:
        RecipeError: the path leads nowhere, or to something else.
    """
    try:
        found = load_object(path)
    except ValueError as error:
        raise RecipeError(f"{key} {error}") from error
    if not callable(found):
        raise RecipeError(f"{key} {path!r} is a {type(found).__name__}; give a function")
    return found
