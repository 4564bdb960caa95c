"""Define a process signal, make one of a user's function, and check its numbers on their way to the credit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from a2tgpo.errors import SignalError
from a2tgpo.signals.transcript import Transcript

if TYPE_CHECKING:
    from jaxtyping import Float


class ProcessSignal(Protocol):
    """Give one number per process turn of each rollout, in order. The answer turn gets none; larger is better."""

    def __call__(self, rollouts: Sequence[Transcript]) -> Sequence[Sequence[float]]: ...


def turn_numbers(signal: ProcessSignal, rollouts: Sequence[Transcript]) -> Float[Tensor, "B T"]:
    """Return the signal's numbers as a tensor, in place of `core.information_gain`; 0 on every other turn.

    T is the largest number of turns in the batch, or 1, as in `Boundaries`.

    Raises:
        SignalError: the signal did not return one finite number for each process turn of each rollout.
    """
    name = _name_of(signal)
    found = list(signal(rollouts))
    if len(found) != len(rollouts):
        raise SignalError(
            f"signal {name!r} returned {len(found)} rows for {len(rollouts)} rollouts; return one row per rollout, "
            "empty where it has no process turn"
        )
    numbers = torch.zeros(len(rollouts), max([1, *(len(rollout.turns) for rollout in rollouts)]))
    for i, (rollout, row) in enumerate(zip(rollouts, found, strict=True)):
        checked = _finite(f"signal {name!r} returned {row!r} for {_describe(i, rollout)}", rollout, row)
        numbers[i, : len(checked)] = torch.tensor(checked)
    return numbers


def _finite(said: str, rollout: Transcript, row: Any) -> list[float]:
    try:
        numbers = [float(number) for number in row]
    except (TypeError, ValueError) as error:
        raise SignalError(f"{said}; return a sequence of numbers, one per process turn") from error
    n_process = len(rollout.steps)
    if len(numbers) != n_process:
        raise SignalError(
            f"{said}: {len(numbers)} numbers for {n_process} process turns; return one for each turn whose "
            "observation is not None"
        )
    if not all(map(math.isfinite, numbers)):
        raise SignalError(f"{said}; return finite numbers, 0 for a turn it has nothing to say about")
    return numbers


def _name_of(signal: Any) -> str:
    """Name a signal in an error: the name of the function, or of the class of an object."""
    function = getattr(signal, "function", signal)
    return getattr(function, "__name__", type(function).__name__)


def _describe(i: int, rollout: Transcript) -> str:
    """Say which rollout an error is about."""
    return f"rollout {i} (prompt ends in {rollout.prompt[-80:]!r})"


@dataclass(frozen=True)
class TurnFunction:
    """Call `function(rollout)` for each rollout; it returns one number per process turn.

        def found_answer(rollout: Transcript) -> list[float]:
            return [float(rollout.answers[0] in step) for step in rollout.steps]

    What it returns is checked by `turn_numbers`.

    Raises:
        SignalError: the function raised; the message names it and the rollout.
    """

    function: Callable[[Transcript], Sequence[float]]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function is {self.function!r}; pass a function of one Transcript")

    def __call__(self, rollouts: Sequence[Transcript]) -> list[Sequence[float]]:
        """Ask the function about each rollout."""
        return [self._call(i, rollout) for i, rollout in enumerate(rollouts)]

    def _call(self, i: int, rollout: Transcript) -> Sequence[float]:
        try:
            return self.function(rollout)
        except Exception as error:
            raise SignalError(
                f"signal {_name_of(self)!r} raised {type(error).__name__} for {_describe(i, rollout)}: {error}; "
                "catch it in the function and return 0 for such a turn, or correct the function"
            ) from error
