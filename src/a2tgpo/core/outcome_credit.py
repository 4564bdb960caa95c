"""Give every turn the outcome: as it is, compared within a tree, or weighed by the policy's entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_range, check_shapes, check_values, check_weight, full_precision
from a2tgpo.core.groups import Std, dense_cells, normalize_outcome, standard_scores
from a2tgpo.core.turn_batch import TurnBatch, TurnCredit, plain_credit

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class OutcomeCredit:
    """Give every turn Â_t = R̂ = (R − mean)/(std + 1e-6) (GRPO, DeepSeekMath, arXiv 2402.03300).

    Attributes:
        std: of the "population" or of a "sample", see `normalize_outcome`.
    """

    std: Std = "population"
    reads: ClassVar[frozenset[str]] = frozenset()
    adds_outcome: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice("std", self.std, get_args(Std))

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`."""
        return plain_credit(batch.reward(self.std)[:, None], batch.learned)


@dataclass(frozen=True)
class TreeCredit:
    """Give Â_t = R̂ among the leaves of the rollout's tree + R̂ among all of the prompt (Tree-GRPO, arXiv 2509.21240).

    Both are (R − mean)/(std + 1e-6). A rollout alone in its tree has no first term.

    Attributes:
        std: of the "population" or of a "sample", see `normalize_outcome`.
    """

    std: Std = "population"
    reads: ClassVar[frozenset[str]] = frozenset({"tree"})

    def __post_init__(self) -> None:
        check_choice("std", self.std, get_args(Std))

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`.

        Raises:
            ValueError: a batch without trees, or a tree outside 0..B−1.
        """
        tree, valid, n_rollouts = batch.required("tree"), batch.is_valid, len(batch.group)
        check_values(
            "tree", tree, (tree >= 0) & (tree < n_rollouts), f"number the trees of a prompt from 0 to {n_rollouts - 1}"
        )
        between = normalize_outcome(batch.outcome, batch.group, valid=valid, std=self.std)
        outcome = torch.where(valid, full_precision(batch.outcome), 0)
        cell = dense_cells(batch.group * n_rollouts + tree)
        within = standard_scores(outcome, valid, cell, n_rollouts, 1e-6, self.std)
        return plain_credit((within + between)[:, None], batch.learned)


@dataclass(frozen=True)
class EntropyCredit:
    """Give Â_t = R̂·(1 + a·Ĥ_t), Ĥ the normalised entropy of the turn (after AEPO, arXiv 2510.14545).

    Ĥ = (H − mean)/(std + 1e-6) over all turns of the batch, of the population. AEPO weighs every token by its own
    entropy; here a turn has the mean entropy of its tokens, because credit belongs to turns. AEPO's scripts leave the
    weight inactive: `weight=0` is what they ran.

    Attributes:
        weight: a; the published code has 0.2.
        std: of R̂, of the "population" or of a "sample", see `normalize_outcome`.
    """

    weight: float = 0.2
    std: Std = "population"
    reads: ClassVar[frozenset[str]] = frozenset({"entropy"})
    adds_outcome: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        check_choice("std", self.std, get_args(Std))

    def __call__(self, batch: TurnBatch) -> TurnCredit:
        """Return the credit of `batch`.

        Raises:
            ValueError: a batch without entropies, or one that is not finite.
        """
        entropy, learned = full_precision(batch.required("entropy")), batch.learned
        check_values(
            "entropy", entropy, entropy.isfinite() | ~learned, "a turn needs the finite mean of its tokens' entropies"
        )
        one_cell = torch.zeros_like(learned, dtype=torch.long)
        unsure = standard_scores(torch.where(learned, entropy, 0), learned, one_cell, n_cells=1, eps=1e-6)
        reward = batch.reward(self.std)
        return plain_credit(reward[:, None] * (1 + self.weight * unsure), learned)


def overlong_penalty(length: Int[Tensor, " B"], *, max_length: int, buffer: int) -> Float[Tensor, " B"]:
    """Return 0 up to max_length − buffer tokens, then 1/buffer less per token, down to −1 (DAPO, arXiv 2503.14476).

    Args:
        length: tokens of each rollout, those of tools included where they use up the limit.
        max_length: the limit; a rollout cut off there has −1.
        buffer: over how many tokens before the limit the penalty grows; DAPO uses 4,096 of 20,480.

    Returns:
        The penalty to add to the reward, in [−1, 0].

    Raises:
        ValueError: lengths that are no vector of integers, or a buffer outside 1..max_length.
    """
    check_shapes(length=(length, "long B"))
    check_range("buffer", buffer, 1, max_length)
    return ((max_length - buffer - length).float() / buffer).clamp(-1, 0)
