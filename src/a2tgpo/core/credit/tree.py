"""Tree-GRPO: a leaf against its tree, and against all trees of its prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from a2tgpo.core._inputs import check_values, full_precision
from a2tgpo.core._scores import dense_cells, standard_scores
from a2tgpo.core.credit.batch import TurnBatch, TurnCredit, plain_credit
from a2tgpo.core.groups import normalize_outcome


@dataclass(frozen=True)
class TreeCredit:
    """Â_t = R̂ among the leaves of the rollout's tree + R̂ among all of the prompt (Tree-GRPO, arXiv 2509.21240).

    Both are (R − mean)/(std + 1e-6). A rollout alone in its tree has no first term.
    """

    reads: ClassVar[frozenset[str]] = frozenset({"tree"})

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """The credit of `batch`.

        Raises:
            ValueError: a batch without trees, or a tree outside 0..B−1.
        """
        tree, valid, n_rollouts = batch.required("tree"), batch.is_valid, len(batch.group)
        check_values(
            "tree", tree, (tree >= 0) & (tree < n_rollouts), f"number the trees of a prompt from 0 to {n_rollouts - 1}"
        )
        between = normalize_outcome(batch.outcome, batch.group, valid=valid)
        outcome = torch.where(valid, full_precision(batch.outcome), 0)
        cell = dense_cells(batch.group * n_rollouts + tree)
        within = standard_scores(outcome, valid, cell, n_rollouts, eps=1e-6)
        return plain_credit((within + between)[:, None], batch.learned)
