"""Sum gains to the end: pooled over the prompt with the outcome (IGPO), mixed with a gain (MICA), or as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_range, check_values, check_weight, full_precision
from a2tgpo.core.gain import accumulate
from a2tgpo.core.groups import normalize_outcome, normalize_turn_groups, standard_scores
from a2tgpo.core.turn_batch import TurnBatch, TurnCredit, plain_credit

if TYPE_CHECKING:
    from jaxtyping import Float

Norm = Literal["joint", "separate"]


@dataclass(frozen=True)
class IgpoCredit:
    """Give Â_t = Σ_{k≥t} γ^{k−t} r̂_k, with r̂_k = ĝ_k on process turns, R̂ on the last turn (IGPO, arXiv 2510.14967).

    Standard deviations are the population's.

    Attributes:
        norm: "joint" normalises a prompt's gains and outcomes in one pool, "separate" in two. The published code has
            both, and its run script the second; it also drops gains of exactly 0, which is not done here.
        gamma: discount per turn of distance, in [0, 1].
    """

    norm: Norm = "joint"
    gamma: float = 1.0
    reads: ClassVar[frozenset[str]] = frozenset({"gain"})

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, get_args(Norm))
        check_range("gamma", self.gamma, 0.0, 1.0)

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`."""
        learned = batch.learned
        gain, reward = self._normalized(batch)
        is_last = torch.arange(gain.shape[1], device=gain.device) == batch.n_turns[:, None] - 1
        advantage = accumulate(
            gain + torch.where(is_last, reward[:, None], 0), learned, gamma=self.gamma, rescale=False
        )
        return plain_credit(advantage, learned, gain)

    def _normalized(self, batch: TurnBatch) -> tuple[Float[Tensor, "B T"], Float[Tensor, " B"]]:
        gain = normalize_turn_groups(batch.gain, batch.has_gain, batch.group, pool="prompt", valid=batch.valid)
        reward = normalize_outcome(batch.outcome, batch.group, valid=batch.valid)
        if self.norm == "separate":
            return gain, reward
        # Gains and outcomes side by side; the two calls above have checked both.
        sample = torch.cat([batch.has_gain, batch.is_valid[:, None]], dim=1)
        value = torch.cat([full_precision(batch.gain), full_precision(batch.outcome)[:, None]], dim=1)
        cell = batch.group[:, None].expand_as(value)
        scores = standard_scores(torch.where(sample, value, 0), sample, cell, len(value), eps=1e-6)
        return scores[:, :-1], scores[:, -1]


@dataclass(frozen=True)
class MicaCredit:
    """Give Â_t = ω·ẑ(Σ_{k≥t} γ^{k−t} g_k) + (1 − ω)·ĝ_t on process turns (after MICA, arXiv 2603.06194).

    ẑ compares returns at the same depth of a prompt; ĝ compares gains over all turns of a prompt; both with the
    population's standard deviation. Every turn of MICA's dialogues has a reward; an answer turn has none, and gets R̂.

    Attributes:
        weight: ω, the share of the return, in [0, 1].
        gamma: discount per turn of distance, in [0, 1].
    """

    weight: float = 0.5
    gamma: float = 1.0
    reads: ClassVar[frozenset[str]] = frozenset({"gain"})
    adds_outcome: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0.0, 1.0)
        check_range("gamma", self.gamma, 0.0, 1.0)

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`."""
        has_gain, group, valid = batch.has_gain, batch.group, batch.valid
        immediate = normalize_turn_groups(batch.gain, has_gain, group, pool="prompt", valid=valid)
        returns = accumulate(batch.gain, has_gain, gamma=self.gamma, rescale=False)
        delayed = normalize_turn_groups(returns, has_gain, group, pool="turn", valid=valid)
        reward = batch.reward()
        mixed = self.weight * delayed + (1 - self.weight) * immediate
        return plain_credit(torch.where(has_gain, mixed, reward[:, None]), batch.learned, immediate)


@dataclass(frozen=True)
class ReturnCredit:
    """Give Â_t = α·Σ_{k≥t} γ^{k−t} g_k + R̂ on process turns, R̂ on the others: gains as they are.

    For turn rewards whose size means something, as an environment's or a judge's: a turn that all rollouts of a prompt
    play equally well is credited with what it is worth, and not with 0. For gains around another mean than 0 subtract
    that in the signal, or every turn is pushed the same way.

    Attributes:
        alpha: weight of the return, 0 or more.
        gamma: discount per turn of distance, in [0, 1].
    """

    alpha: float = 1.0
    gamma: float = 1.0
    reads: ClassVar[frozenset[str]] = frozenset({"gain"})
    adds_outcome: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight("alpha", self.alpha)
        check_range("gamma", self.gamma, 0.0, 1.0)

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`.

        Raises:
            ValueError: a gain that is not finite.
        """
        gain, has_gain = full_precision(batch.gain), batch.has_gain
        check_values("gain", gain, gain.isfinite() | ~has_gain, "a process turn needs a finite gain")
        plain = torch.where(has_gain, gain, 0)
        returns = accumulate(plain, has_gain, gamma=self.gamma, rescale=False)
        return plain_credit(self.alpha * returns + batch.reward()[:, None], batch.learned, plain)
