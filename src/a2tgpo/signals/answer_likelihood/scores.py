"""The result of a scoring pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Scores:
    """What one scoring pass found.

    Attributes:
        likelihood: v_{i,t}; column 0 after the query alone, column t + 1 after turn t's observation, and 0
            where `boundaries.exists` is False (`is_process` keeps those columns out of every gain).
        old_logps: log π of each completion token the policy wrote, 0 elsewhere; None where nobody asked for them.
        boundaries: where the likelihoods were read, with `is_process` and `n_turns`.
        seconds_logps: wall-clock seconds of the trajectory forwards, where they were asked for.
        seconds_gain: wall-clock seconds of the forwards that only the likelihoods need.
    """

    likelihood: Float[Tensor, "B T+1"]
    old_logps: Float[Tensor, "B L"] | None
    boundaries: Boundaries
    seconds_logps: float
    seconds_gain: float
