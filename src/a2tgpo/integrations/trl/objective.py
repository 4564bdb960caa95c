"""TRL's options that have a meaning beside turn credit, carried into our loss: which there are, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.methods import Method
from a2tgpo.pipeline import LossInputs

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from trl import GRPOTrainer

AGGREGATES = {"grpo": "rollout", "dapo": "token", "bnpo": "token", "dr_grpo": "token"}
"""TRL's loss types that differ only in what the clipped objective is divided by -> our aggregation."""

OTHER_OBJECTIVES = ("cispo", "sapo", "vespo", "luspo")
"""TRL's loss types with an objective of their own; TRL computes them, from our advantages."""


@dataclass(frozen=True)
class Contradiction:
    """Name an option of TRL's that a method cannot be combined with, and the remedy."""

    option: str
    holds: Callable[[Any, Method], bool]
    remedy: str


def _not_plain(args: Any, method: Method) -> bool:
    """Return whether the method's loss has more than TRL's: a turn's ratio, shared turns, or another clipping."""
    return method.ratio == "turn" or method.shares_turns or method.upper != "clip" or method.dual_clip is not None


CONTRADICTIONS = (
    Contradiction(
        "loss_type",
        lambda args, method: args.loss_type in OTHER_OBJECTIVES and _not_plain(args, method),
        "its objective has no place for this method's own ratio and clipping; take method='grpo' or method='igpo'",
    ),
    Contradiction(
        "importance_sampling_level",
        lambda args, method: args.importance_sampling_level == "sequence" and method.ratio == "turn",
        "this method's ratio is the turn's; take method='gspo', whose ratio is the sequence's",
    ),
    Contradiction(
        "importance_sampling_level",
        lambda args, method: args.importance_sampling_level == "sequence" and method.shares_turns,
        "rollouts of this method share turns, which have no sequence of their own; take method='gspo'",
    ),
    Contradiction(
        "off_policy_mask_threshold",
        lambda args, method: args.off_policy_mask_threshold is not None and method.shares_turns,
        "rollouts of this method share turns, and a dropped one would take the others' with it; leave it unset",
    ),
)


def check_options(args: Any, method: Method) -> None:
    """Raise `ValueError` for an option of TRL's that contradicts `method`."""
    for one in CONTRADICTIONS:
        if one.holds(args, method):
            raise ValueError(f"{one.option}={getattr(args, one.option)!r} with method={method.name!r}: {one.remedy}")


def divisor(loss_type: str, inputs: LossInputs, max_completion_length: int) -> Float[Tensor, ""]:
    """Return what TRL's token means divide a micro-batch by: the tokens of the update (dapo), of the micro-batch
    (bnpo), or as many as its rollouts could have had (dr_grpo)."""
    if loss_type == "bnpo":
        return inputs.token_weight.sum()
    if loss_type == "dr_grpo":
        return torch.tensor(float(len(inputs.turn_ids) * max_completion_length), device=inputs.turn_ids.device)
    return inputs.n_tokens


def token_weights(
    trainer: GRPOTrainer,
    inputs: LossInputs,
    logps: Float[Tensor, "B L"],
    sampled_logps: Float[Tensor, "B L"],
    entropies: Float[Tensor, "B L"],
    importance: Float[Tensor, "B _"] | None,
) -> Float[Tensor, "B L"] | None:
    """Return the weight of each token in the objective by TRL's options, or None where all weigh 1.

    The product of vLLM's importance ratio, the mask of `top_entropy_quantile`, and the off-policy mask.

    Args:
        sampled_logps: of the engine that drew the tokens, where they are known, else the old ones.
        importance: of each token or each rollout against that engine.
    """
    weights = [] if importance is None else [importance]
    written = inputs.turn_ids >= 0
    if trainer.top_entropy_quantile < 1.0:
        weights.append(trainer.get_high_entropy_mask(entropies, written.long(), 1 - trainer.top_entropy_quantile))
    if (threshold := trainer.off_policy_mask_threshold) is not None:
        kept = trainer.get_off_policy_mask(inputs.advantage, logps, sampled_logps, written.long(), threshold)
        weights.append(kept)
    if not weights:
        return None
    product = torch.ones_like(entropies)
    for weight in weights:
        product = product * weight
    return product


def entropy_bonus(
    trainer: GRPOTrainer, entropies: Float[Tensor, "B L"], acting: Bool[Tensor, "B L"]
) -> Float[Tensor, ""]:
    """Return TRL's entropy bonus, coefficient × mean entropy of the `acting` tokens, and move TRL's controller on.

    With `use_adaptive_entropy` the bonus acts while the entropy of the last update was at or below `entropy_target`;
    the coefficient rises by `entropy_coef_delta` after such an update and falls after the others (TRL's rule).
    """
    total, count = (entropies * acting).sum(), acting.sum().clamp(min=1)
    adaptive = trainer.use_adaptive_entropy
    acts = not adaptive or trainer._last_world_entropy <= trainer.args.entropy_target
    bonus = (trainer.entropy_coef if acts else 0.0) * total / count
    if adaptive and trainer.model.training:
        window = torch.stack([total, acting.sum()]).detach()
        before = trainer._entropy_window_stats
        trainer._entropy_window_stats = window if before is None else before + window
        if trainer.accelerator.sync_gradients:
            _move_controller(trainer)
    if trainer.model.training and trainer.accelerator.sync_gradients:
        trainer._metrics["train"]["entropy_coef"].append(trainer.entropy_coef)
    return bonus


def _move_controller(trainer: GRPOTrainer) -> None:
    """Adapt the coefficient to the entropy of the update that ends here, in all processes."""
    args, stats = trainer.args, trainer.accelerator.reduce(trainer._entropy_window_stats, reduction="sum")
    entropy = (stats[0] / stats[1].clamp(min=1)).item()
    step = args.entropy_coef_delta if entropy <= args.entropy_target else -args.entropy_coef_delta
    trainer.entropy_coef = min(max(trainer.entropy_coef + step, args.entropy_coef_min), args.entropy_coef_max)
    trainer._last_world_entropy, trainer._entropy_window_stats = entropy, None
