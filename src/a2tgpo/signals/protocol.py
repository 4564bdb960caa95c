"""What a process signal is, and the one door through which its numbers reach the credit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from a2tgpo.errors import SignalError
from a2tgpo.signals.transcript import Transcript

if TYPE_CHECKING:
    from jaxtyping import Float


class ProcessSignal(Protocol):
    """One number per process turn of each rollout, in order. The answer turn gets none; larger is better."""

    def __call__(self, rollouts: Sequence[Transcript]) -> Sequence[Sequence[float]]: ...


def turn_numbers(signal: ProcessSignal, rollouts: Sequence[Transcript]) -> Float[Tensor, "B T"]:
    """The signal's numbers as a tensor, in place of `core.information_gain`; 0 on every other turn.

    T is the largest number of turns in the batch, or 1, as in `Boundaries`.

    Raises:
        SignalError: the signal did not return one finite number for each process turn of each rollout.
    """
    name = name_of(signal)
    found = list(signal(rollouts))
    if len(found) != len(rollouts):
        raise SignalError(
            f"signal {name!r} returned {len(found)} rows for {len(rollouts)} rollouts; return one row per rollout, "
            "empty where it has no process turn"
        )
    numbers = torch.zeros(len(rollouts), max([1, *(len(rollout.turns) for rollout in rollouts)]))
    for i, (rollout, row) in enumerate(zip(rollouts, found, strict=True)):
        checked = _finite(f"signal {name!r} returned {row!r} for {describe(i, rollout)}", rollout, row)
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


def name_of(signal: Any) -> str:
    """What an error calls a signal: the name of the function, or of the class of an object."""
    function = getattr(signal, "function", signal)
    return getattr(function, "__name__", type(function).__name__)


def describe(i: int, rollout: Transcript) -> str:
    """Which rollout an error is about."""
    return f"rollout {i} (prompt ends in {rollout.prompt[-80:]!r})"
