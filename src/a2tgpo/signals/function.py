"""A user's own function as a process signal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from a2tgpo.errors import SignalError
from a2tgpo.signals.protocol import describe, name_of
from a2tgpo.signals.transcript import Transcript


@dataclass(frozen=True)
class TurnFunction:
    """Calls `function(rollout)` for each rollout; it returns one number per process turn.

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
        """The function's numbers for each rollout."""
        return [self._call(i, rollout) for i, rollout in enumerate(rollouts)]

    def _call(self, i: int, rollout: Transcript) -> Sequence[float]:
        try:
            return self.function(rollout)
        except Exception as error:
            raise SignalError(
                f"signal {name_of(self)!r} raised {type(error).__name__} for {describe(i, rollout)}: {error}; "
                "catch it in the function and return 0 for such a turn, or correct the function"
            ) from error
