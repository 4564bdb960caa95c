"""MICA's mix: what a turn gained at once, and what was gained from it to the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from a2tgpo.core._inputs import check_range
from a2tgpo.core.accumulate import accumulate
from a2tgpo.core.credit.batch import TurnBatch, TurnCredit, plain_credit
from a2tgpo.core.groups import normalize_outcome, normalize_turn_groups


@dataclass(frozen=True)
class MicaCredit:
    """Â_t = ω·ẑ(Σ_{k≥t} γ^{k−t} g_k) + (1 − ω)·ĝ_t + R̂ (after MICA, arXiv 2603.06194).

    ẑ compares returns at the same depth of a prompt; ĝ compares gains over all turns of a prompt. Off process turns
    Â is R̂. The mix is the paper's; R̂ is ours: MICA's dialogues have no outcome beside their turns' rewards.

    Attributes:
        weight: ω, the share of the return, in [0, 1].
        gamma: discount per turn of distance, in [0, 1].
    """

    weight: float = 0.5
    gamma: float = 1.0
    reads: ClassVar[frozenset[str]] = frozenset({"gain"})

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0.0, 1.0)
        check_range("gamma", self.gamma, 0.0, 1.0)

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """The credit of `batch`."""
        has_gain, group, valid = batch.has_gain, batch.group, batch.valid
        immediate = normalize_turn_groups(batch.gain, has_gain, group, pool="prompt", valid=valid)
        returns = accumulate(batch.gain, has_gain, gamma=self.gamma, rescale=False)
        delayed = normalize_turn_groups(returns, has_gain, group, pool="turn", valid=valid)
        reward = normalize_outcome(batch.outcome, group, valid=valid)
        advantage = self.weight * delayed + (1 - self.weight) * immediate + reward[:, None]
        return plain_credit(advantage, batch.learned, immediate)
