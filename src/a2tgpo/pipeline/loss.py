"""The loss of one micro-batch of an update, from the credit its turns were given when it was generated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from a2tgpo.core import keep_turns, kl_penalty, policy_loss, rollout_mean, turn_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer
    from a2tgpo.pipeline.credit import BatchCredit

_DIAGNOSTICS = ("clipped_low", "clipped_high", "ratio_mean", "approx_kl")
"""Fields of `PolicyLoss` that are logged as `loss/NAME`."""


class UpdateLoss(NamedTuple):
    """The loss, divided as TRL's accumulation wants it; what is logged of it; and what the rollout log keeps."""

    loss: Float[Tensor, ""]
    diagnostics: dict[str, Tensor]
    log_ratio: Float[Tensor, "B L"]
    clipped_turns: Bool[Tensor, "B T"]


def loss_fields(trainer: A2TGPOTrainer, credit: BatchCredit, model_mask: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
    """What `update_loss` reads of a generation batch beside TRL's tensors, from this process's `credit`: the turn of
    each token that teaches, advantage and clip scale of the turns, and what counts in sums over tokens."""
    ids = turn_ids(model_mask & credit.valid[:, None])
    counted = ids if credit.owned is None else keep_turns(ids, credit.owned)
    fields = {
        "turn_ids": ids,
        "counted_ids": counted,
        "turn_advantages": credit.advantage,
        "turn_clip_scale": credit.clip_scale,
    }
    if credit.owned is not None:
        fields["turn_owned"] = credit.owned
    if trainer.method.aggregate == "token":
        fields["n_tokens"] = trainer.accelerator.gather((counted >= 0).sum()).sum()
    return fields


def update_loss(
    trainer: A2TGPOTrainer, inputs: dict[str, Any], logps: Float[Tensor, "B L"], entropies: Float[Tensor, "B L"]
) -> UpdateLoss:
    """The method's loss on `inputs`, one micro-batch of TRL's tensors and `loss_fields`, with TRL's KL penalty.

    Args:
        logps: log-probabilities of the completion's tokens under the policy, with gradient.
        entropies: of the policy at those tokens, in nats.
    """
    # There are none where the policy that learns is the one that wrote: the ratio is then 1.
    old_logps = inputs.get("old_per_token_logps", logps.detach())
    # TRL has one for each token or one for the rollout, where vLLM generates and is corrected for.
    importance = inputs.get("importance_sampling_ratio")
    result = policy_loss(
        logps,
        old_logps,
        inputs["turn_ids"],
        inputs["turn_advantages"],
        inputs["turn_clip_scale"],
        n_tokens=_tokens_of_update(trainer, inputs),
        owned=inputs.get("turn_owned"),
        token_weight=importance.expand_as(logps) if importance is not None else None,
        **trainer.method.loss_options,
    )
    diagnostics = {f"loss/{name}": getattr(result, name) for name in _DIAGNOSTICS}
    accumulation = trainer.current_gradient_accumulation_steps if trainer.model.training else 1.0
    # A sum over tokens is divided by those of the whole update already.
    loss = result.loss / (accumulation if trainer.method.aggregate == "rollout" else 1.0)
    if trainer.beta != 0.0:
        sampled_by = old_logps if trainer.args.use_bias_correction_kl else None
        kl = kl_penalty(logps, inputs["ref_per_token_logps"], inputs["turn_ids"], sampled_by)
        penalty = rollout_mean(kl, inputs["counted_ids"])
        loss = loss + trainer.beta * penalty / accumulation
        diagnostics["kl"] = penalty
    written = inputs["turn_ids"] >= 0
    diagnostics["entropy"] = (entropies * written).sum() / written.sum().clamp(min=1)
    return UpdateLoss(loss, diagnostics, logps.detach() - old_logps, result.clipped_turns)


def _tokens_of_update(trainer: A2TGPOTrainer, inputs: dict[str, Any]) -> Tensor | None:
    """What the sum over this micro-batch's tokens is divided by, so that the gradients of an update's micro-batches and
    processes add up, after their mean over processes, to that of the mean over all tokens of the update."""
    if trainer.method.aggregate != "token":
        return None
    tokens: Tensor = inputs["n_tokens"].clamp(min=1).float() / trainer.accelerator.num_processes
    if trainer.model.training:
        tokens = tokens * trainer.current_gradient_accumulation_steps / trainer.args.steps_per_generation
    return tokens.clamp(min=1)
