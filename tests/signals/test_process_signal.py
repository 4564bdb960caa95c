"""A user's function: its numbers arrive as they are, and whatever else it does raises with its name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from a2tgpo.errors import A2TGPOError, SignalError
from a2tgpo.signals import Transcript, TurnFunction, turn_numbers
from tests.signals.parts import ROLLOUTS


def length(made: Transcript) -> list[float]:
    """The length of each step."""
    return [float(len(step)) for step in made.steps]


def test_numbers_stand_on_their_turns() -> None:
    """[B, T] with T the most turns of a rollout: numbers on process turns in order, 0 on answer turns and padding;
    lists, arrays and tensors of any number type are the same."""
    expected = torch.tensor([[27.0, 20, 4, 0], [0, 0, 0, 0], [45, 0, 0, 0], [27, 26, 0, 0]])
    kinds: list[Callable[[list[float]], Any]] = [list, np.array, torch.tensor, lambda row: map(int, row), tuple]
    for kind in kinds:
        numbers = turn_numbers(TurnFunction(lambda made, kind=kind: kind(length(made))), ROLLOUTS)
        assert torch.equal(numbers, expected)
    assert turn_numbers(TurnFunction(length), ROLLOUTS[1:2]).shape == (1, 1)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([1.0, 2.0], r"\[1.0, 2.0\].*2 numbers for 3 process turns; return one for each turn"),
        ([1.0, math.nan, 2.0], "finite numbers, 0 for a turn"),
        ([1.0, math.inf, 2.0], "finite numbers, 0 for a turn"),
        ([1.0, None, 2.0], "a sequence of numbers"),
        (None, "returned None.*a sequence of numbers"),
        (0.5, "returned 0.5.*a sequence of numbers"),
        ("one", "a sequence of numbers"),
    ],
)
def test_unusable_numbers_raise(row: Any, said: str) -> None:
    """A wrong count, NaN, infinity, None or no sequence raises SignalError: the function, the rollout, the remedy."""

    def coach(made: Transcript) -> Any:
        return row if made is ROLLOUTS[0] else length(made)

    with pytest.raises(SignalError, match=said) as caught:
        turn_numbers(TurnFunction(coach), [ROLLOUTS[1], ROLLOUTS[0]])
    assert "signal 'coach'" in str(caught.value) and "rollout 1 (prompt ends in 'who leads Kelo?')" in str(caught.value)
    assert isinstance(caught.value, A2TGPOError) and isinstance(caught.value, ValueError)


def test_an_exception_keeps_its_cause() -> None:
    """What the function raises is chained to a SignalError that names both."""

    class Coach:
        def __call__(self, made: Transcript) -> list[float]:
            return [1 / len(step) for step in made.steps] if len(made.steps) < 3 else [{}["no"]]

    with pytest.raises(SignalError, match=r"'Coach' raised KeyError for rollout 2 .*'no'; catch it") as caught:
        turn_numbers(TurnFunction(Coach()), [ROLLOUTS[1], ROLLOUTS[2], ROLLOUTS[0]])
    assert isinstance(caught.value.__cause__, KeyError)


def test_any_signal_is_checked() -> None:
    """An object that follows the protocol and forgets a rollout raises too; what is no function is refused."""

    class Forgetful:
        def __call__(self, rollouts: Sequence[Transcript]) -> list[list[float]]:
            return [length(made) for made in rollouts[1:]]

    with pytest.raises(SignalError, match="'Forgetful' returned 3 rows for 4 rollouts; return one row per rollout"):
        turn_numbers(Forgetful(), ROLLOUTS)
    with pytest.raises(ValueError, match="function is 'length'; pass a function"):
        TurnFunction("length")  # type: ignore[arg-type]
