"""AEPO: the outcome counts more on turns the policy was unsure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from a2tgpo.core._inputs import check_range, check_values, full_precision
from a2tgpo.core._scores import standard_scores
from a2tgpo.core.credit.batch import TurnBatch, TurnCredit, plain_credit
from a2tgpo.core.groups import normalize_outcome


@dataclass(frozen=True)
class EntropyCredit:
    """Â_t = R̂·(1 + a·Ĥ_t), Ĥ the normalised entropy of the turn (after AEPO, arXiv 2510.14545).

    Ĥ = (H − mean)/(std + 1e-6) over all turns of the batch. AEPO weighs every token by its own entropy; here a turn
    has the mean entropy of its tokens, because credit belongs to turns.

    Attributes:
        weight: a; the published code uses 0.2.
    """

    weight: float = 0.2
    reads: ClassVar[frozenset[str]] = frozenset({"entropy"})

    def __post_init__(self) -> None:
        check_range("weight", self.weight, 0.0, float("inf"))

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """The credit of `batch`.

        Raises:
            ValueError: a batch without entropies, or one that is not finite.
        """
        entropy, learned = full_precision(batch.required("entropy")), batch.learned
        check_values(
            "entropy", entropy, entropy.isfinite() | ~learned, "a turn needs the finite mean of its tokens' entropies"
        )
        one_cell = torch.zeros_like(learned, dtype=torch.long)
        unsure = standard_scores(torch.where(learned, entropy, 0), learned, one_cell, n_cells=1, eps=1e-6)
        reward = normalize_outcome(batch.outcome, batch.group, valid=batch.valid)
        return plain_credit(reward[:, None] * (1 + self.weight * unsure), learned)
