"""TRL's options that have a meaning beside turn credit, carried into our loss: which there are, and what they weigh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.methods import Method
from a2tgpo.pipeline import LossInputs, TurnLoss, turn_loss
from a2tgpo.pipeline.likelihood import UpdateReading

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from trl import GRPOTrainer

AGGREGATES = {"grpo": "rollout", "dapo": "token", "bnpo": "token", "dr_grpo": "token"}
"""TRL's loss types that differ only in what the clipped objective is divided by -> our aggregation."""

OTHER_OBJECTIVES = ("cispo", "sapo", "vespo", "luspo")
"""TRL's loss types with an objective of their own; TRL computes them, from our advantages."""

TOKEN_MEANS = (
    *("entropy", "kl", "loss/clipped_low", "loss/clipped_high", "loss/ratio_mean", "loss/approx_kl"),
    *("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean"),
)
"""Name what is logged as a mean over tokens, and the last three over rollouts where the ratio is the sequence's."""


@dataclass(frozen=True)
class Contradiction:
    """Name an option of TRL's that a method cannot be combined with, and the remedy."""

    option: str
    holds: Callable[[Any, Method], bool]
    remedy: str


def _adds_outcome(method: Method) -> bool:
    return getattr(method.credit, "adds_outcome", False)


def _not_plain(args: Any, method: Method) -> bool:
    """Return whether the method's loss has more than TRL's: a turn's ratio, shared turns, or another clipping."""
    return method.ratio == "turn" or method.shares_turns or method.upper != "clip" or method.dual_clip is not None


def normalizes_otherwise(args: Any) -> bool:
    """Return whether outcomes are compared otherwise than each prompt's weighted sum in its own group."""
    return args.scale_rewards not in ("group", True) or args.multi_objective_aggregation != "sum_then_normalize"


CONTRADICTIONS = (
    Contradiction(
        "scale_rewards",
        lambda args, method: args.scale_rewards not in ("group", True) and not _adds_outcome(method),
        "this method normalises outcomes together with its turns' numbers; keep scale_rewards='group'",
    ),
    Contradiction(
        "multi_objective_aggregation",
        lambda args, method: args.multi_objective_aggregation != "sum_then_normalize" and not _adds_outcome(method),
        "this method normalises outcomes together with its turns' numbers; keep 'sum_then_normalize'",
    ),
    Contradiction(
        "scale_rewards",
        lambda args, method: normalizes_otherwise(args) and method.overlong is not None,
        "TRL compares the outcomes, and knows nothing of this method's penalty for length; keep scale_rewards='group' "
        "and 'sum_then_normalize', or take method='grpo'",
    ),
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


def check_options(args: Any, method: Method, as_written: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an option of TRL's that contradicts `method`.

    Args:
        as_written: what the user wrote for options that TRL has rewritten.
    """
    for one in CONTRADICTIONS:
        if one.holds(args, method):
            value = as_written.get(one.option, getattr(args, one.option))
            raise ValueError(f"{one.option}={value!r} with method={method.name!r}: {one.remedy}")


def update_loss(
    trainer: GRPOTrainer, columns: dict[str, Any], reading: UpdateReading, method: Method, window: int
) -> tuple[Float[Tensor, ""], LossInputs, TurnLoss, dict[str, Tensor]]:
    """Return the loss of a micro-batch, divided as TRL's accumulation wants it, and what is logged of it.

    The method's loss, less TRL's entropy bonus, plus its load-balancing loss.

    Args:
        columns: TRL's micro-batch with the columns of `LossInputs`.
        reading: what the policy says of it.
        window: consecutive micro-batches of one generation that feed one update.
    """
    training = trainer.model.training
    accumulation = trainer.current_gradient_accumulation_steps if training else 1
    inputs = LossInputs.from_columns(columns)
    written = inputs.turn_ids >= 0
    logps, entropies, aux_loss = reading
    # There are none where the policy that learns is the one that wrote: the ratio is then 1.
    old_logps = columns.get("old_per_token_logps", logps.detach())
    sampled = columns.get("sampling_per_token_logps", old_logps)
    importance = columns.get("importance_sampling_ratio")
    unsure = None
    if (quantile := trainer.top_entropy_quantile) < 1.0:
        unsure = trainer.get_high_entropy_mask(entropies, written.long(), 1 - quantile)
    # An update may take in several windows, and the last one of an epoch fewer micro-batches than one.
    of_update = inputs.over_tokens(inputs.n_tokens * (accumulation / window if training else 1))
    found = turn_loss(
        logps,
        old_logps,
        inputs.over_tokens(divisor(trainer.loss_type, of_update, trainer.max_completion_length)),
        method,
        token_weight=token_weights(trainer, inputs, logps, sampled, entropies, importance, unsure),
        ref_logps=columns.get("ref_per_token_logps"),
        kl_beta=trainer.beta,
        kl_bias_correction=trainer.args.use_bias_correction_kl,
    )
    logged = found.diagnostics | {"entropy": (entropies * written).sum().detach() / written.sum().clamp(min=1)}
    # Engines log the mean over micro-batches and processes: weighed so, it is the mean over the tokens of the update.
    share = inputs.token_weight.sum() * (window if training else 1) / inputs.n_tokens.clamp(min=1)
    over_tokens = TOKEN_MEANS if method.ratio != "sequence" else TOKEN_MEANS[: TOKEN_MEANS.index("clip_ratio/low_mean")]
    logged |= {name: logged[name] * share for name in over_tokens if name in logged}
    # A mean over an update's tokens adds up over its micro-batches by itself.
    loss = found.loss if trainer.loss_type == "dapo" else found.loss / accumulation
    if trainer._entropy_bonus_enabled:
        logged["policy_loss"] = found.loss.detach()
        acting = written if unsure is None else written & unsure
        loss = loss - entropy_bonus(trainer, entropies, acting) / accumulation
    if aux_loss is not None:
        logged["aux_loss"] = aux_loss.detach()
        loss = loss + trainer.router_aux_loss_coef * aux_loss / accumulation
    return loss, inputs, found, logged


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
    unsure: Bool[Tensor, "B L"] | None,
) -> Float[Tensor, "B L"] | None:
    """Return the weight of each token in the objective by TRL's options, or None where all weigh 1.

    The product of vLLM's importance ratio, the mask of `top_entropy_quantile` (`unsure`), and the off-policy mask.

    Args:
        sampled_logps: of the engine that drew the tokens, where they are known, else the old ones.
        importance: of each token or each rollout against that engine.
    """
    weights = [weight for weight in (importance, unsure) if weight is not None]
    written = inputs.turn_ids >= 0
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
