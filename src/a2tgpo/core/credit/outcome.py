"""The outcome alone: what GRPO, DAPO and GSPO give every turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from a2tgpo.core.credit.batch import TurnBatch, TurnCredit, plain_credit
from a2tgpo.core.groups import normalize_outcome


@dataclass(frozen=True)
class OutcomeCredit:
    """Â_t = R̂ = (R − mean)/(std + 1e-6) on every turn (GRPO, DeepSeekMath, arXiv 2402.03300)."""

    reads: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """The credit of `batch`."""
        reward = normalize_outcome(batch.outcome, batch.group, valid=batch.is_valid)
        return plain_credit(reward[:, None], batch.learned)
