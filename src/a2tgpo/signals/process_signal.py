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


@dataclass(frozen=True)
class Scored:
    """Hold what a signal says of one rollout.

    Attributes:
        numbers: one per process turn, in order; larger is better.
        notes: a text to each, for the rollout log and the report; empty where there are none.
    """

    numbers: Sequence[float]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Unscored:
    """Say why a signal has no numbers for a rollout, which is then excluded from the loss and from every statistic."""

    reason: str


TurnScores = Sequence[float] | Scored | Unscored
"""Number the turns of one rollout: numbers alone, numbers with notes, or the reason why it has none."""


class ProcessSignal(Protocol):
    """Give one number per process turn of each rollout, in order. The answer turn gets none; larger is better.

    A signal may have a method `take_counts() -> dict[str, float]`: what it counted since the last call, to be logged
    with the batch. Counts are added up over processes; a name that ends in `seconds` is the slowest process's.
    """

    def __call__(self, rollouts: Sequence[Transcript]) -> Sequence[TurnScores]: ...


@dataclass(frozen=True, eq=False)
class SignalReading:
    """Hold what a signal said of B rollouts, T turns at most, checked.

    Attributes:
        numbers: in place of `core.information_gain`; 0 on every turn without one.
        notes: of each process turn; empty for a rollout without notes.
        unscored: why a rollout has no numbers; None for one that has.
    """

    numbers: Float[Tensor, "B T"]
    notes: list[list[str]]
    unscored: list[str | None]


def read_signal(signal: ProcessSignal, rollouts: Sequence[Transcript]) -> SignalReading:
    """Ask the signal about `rollouts` and check what it says.

    T is the largest number of turns in the batch, or 1, as in `Boundaries`.

    Raises:
        SignalError: the signal did not return one finite number for each process turn of each rollout that it scored.
    """
    name = _name_of(signal)
    found = list(signal(rollouts))
    if len(found) != len(rollouts):
        raise SignalError(
            f"signal {name!r} returned {len(found)} rows for {len(rollouts)} rollouts; return one row per rollout, "
            "empty where it has no process turn"
        )
    numbers = torch.zeros(len(rollouts), max([1, *(len(rollout.turns) for rollout in rollouts)]))
    notes: list[list[str]] = []
    for i, (rollout, row) in enumerate(zip(rollouts, found, strict=True)):
        scored = row if isinstance(row, Scored) else Scored(() if isinstance(row, Unscored) else row)
        notes.append([str(note) for note in scored.notes])
        if isinstance(row, Unscored):
            continue
        said = f"signal {name!r} returned {scored.numbers!r} for {_describe(i, rollout)}"
        checked = _finite(said, rollout, scored.numbers)
        if notes[i] and len(notes[i]) != len(checked):
            raise SignalError(f"{said} with {len(notes[i])} notes; return one for each number, or none")
        numbers[i, : len(checked)] = torch.tensor(checked)
    unscored = [str(row.reason) if isinstance(row, Unscored) else None for row in found]
    return SignalReading(numbers, notes, unscored)


def turn_numbers(signal: ProcessSignal, rollouts: Sequence[Transcript]) -> Float[Tensor, "B T"]:
    """Return the numbers of `read_signal` alone."""
    return read_signal(signal, rollouts).numbers


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

    A rollout that it cannot judge gets `Unscored("why")`. What it returns is checked by `read_signal`.

    Raises:
        SignalError: the function raised; the message names it and the rollout.
    """

    function: Callable[[Transcript], TurnScores]

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"function is {self.function!r}; pass a function of one Transcript")

    def __call__(self, rollouts: Sequence[Transcript]) -> list[TurnScores]:
        """Ask the function about each rollout."""
        return [self._call(i, rollout) for i, rollout in enumerate(rollouts)]

    def _call(self, i: int, rollout: Transcript) -> TurnScores:
        try:
            return self.function(rollout)
        except Exception as error:
            raise SignalError(
                f"signal {_name_of(self)!r} raised {type(error).__name__} for {_describe(i, rollout)}: {error}; "
                "catch it in the function and return 0 for such a turn, or correct the function"
            ) from error
