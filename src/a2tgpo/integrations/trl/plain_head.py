"""Read log-probabilities through a model's own output head, called as TRL's fused one is.

For a TRL whose fused head is not there (1.14) or does not run on the device (1.15 on a CPU).
"""

from __future__ import annotations

import functools
import logging
import types
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from a2tgpo.integrations.trl.accelerate_collective import sharded_by
from a2tgpo.integrations.trl.trl_contract import why_plain_head
from a2tgpo.rollout.engine import evaluating
from a2tgpo.signals.answer_likelihood.model_support import TESTED, own_part
from a2tgpo.signals.answer_likelihood.output_head import LOGITS_AT_ONCE
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Float, Integer
    from trl import GRPOTrainer

logger = logging.getLogger(__name__)


def give_head(trainer: GRPOTrainer) -> None:
    """Add this head to a trainer's policy and reference where TRL's cannot be used, or differs from their logits."""
    policy = trainer.model.get_base_model() if is_peft_model(trainer.model) else trainer.model
    reason = why_plain_head(trainer.accelerator.device.type)
    if reason is not None:
        logger.info("trl %s: %s; log-probabilities are read from the model's own logits", version("trl"), reason)
    elif sharded_by(trainer.accelerator) is None and (reason := why_own_logits(policy, trainer.temperature)):
        logger.warning("%s; log-probabilities are read from the model's own logits", reason)
    if reason is None:
        return
    add_plain_head(policy, trainer.temperature)
    if trainer.ref_model is not None:
        add_plain_head(trainer.accelerator.unwrap_model(trainer.ref_model), trainer.temperature)


@torch.no_grad()
def why_own_logits(model: PreTrainedModel, temperature: float = 1.0) -> str | None:
    """Say how TRL's head, which this model has, differs from the model's own logits on two tokens; None where it does
    not, nor for a family that the tests have seen, in transformers' own code.

    TRL's reads scales and soft caps by the names that transformers' configurations have for them.
    """
    if model.config.get_text_config().model_type in TESTED and own_part(model) is None:
        return None
    ids = torch.tensor([[0, 1]], device=model.device)
    with evaluating(model):
        logits = model(input_ids=ids, use_cache=False).logits.float() / temperature
        found = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs.float()
    expected = logits.log_softmax(-1)[0, 0, 1]
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    if (found[0, 0].to(expected.device) - expected).abs() <= tolerance * expected.abs().clamp(min=1):
        return None
    return f"{type(model).__name__} makes its logits otherwise than TRL's fused output head does"


@dataclass
class PlainHeadOutput(ModelOutput):
    """Hold what is read of each label's position, 0 where the label is −100, as TRL's `FusedCausalLMOutput` does."""

    log_probs: Float[Tensor, "B L"] | None = None
    entropy: Float[Tensor, "B L"] | None = None
    aux_loss: Float[Tensor, ""] | None = None


def add_plain_head(model: PreTrainedModel, temperature: float = 1.0) -> None:
    """Let `model(…, labels=…, fused_lm_head=True)` return `PlainHeadOutput`; every other call is as before.

    The logits are the model's own, of all hidden states that its layers hand on (`fused_reading` hands on those that
    are read), in the model's dtype; float32 copies exist for `LOGITS_AT_ONCE` of them at a time.

    Args:
        model: before it is wrapped for training; the language model itself, without PEFT's shell.
        temperature: that logits are divided by.
    """
    before = model.forward

    @functools.wraps(type(model).forward)  # generate checks its arguments against the signature
    def forward(
        self: PreTrainedModel,
        *args: Any,
        fused_lm_head: bool = False,
        shift_labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            return before(*args, **kwargs if shift_labels is None else kwargs | {"shift_labels": shift_labels})
        labels = kwargs.pop("labels", None)
        # A copy of the model has to read its own weights, which `before` does not.
        output = type(self).forward(self, *args, **kwargs | {"use_cache": False})
        logits = output.logits
        if shift_labels is None:
            logits, shift_labels = logits[:, :-1], labels[:, 1:]
        shift_labels = shift_labels.to(logits.device)
        logps, entropies = _read(logits.flatten(0, 1), shift_labels.clamp(min=0).flatten(), temperature)
        ignored = shift_labels == IGNORED
        return PlainHeadOutput(
            log_probs=logps.view_as(ignored).masked_fill(ignored, 0),
            entropy=entropies.view_as(ignored).masked_fill(ignored, 0),
            aux_loss=getattr(output, "aux_loss", None),
        )

    model.forward = types.MethodType(forward, model)


def _read(logits: Float[Tensor, "N V"], targets: Integer[Tensor, " N"], temperature: float) -> tuple[Tensor, Tensor]:
    positions = max(LOGITS_AT_ONCE // logits.size(1), 1)
    parts = [
        # The backward pass makes the float32 copy again.
        checkpoint(_read_part, *part, temperature, use_reentrant=False)
        for part in zip(logits.split(positions), targets.split(positions), strict=True)
    ]
    logps, entropies = zip(*parts, strict=True)
    return torch.cat(logps), torch.cat(entropies)


def _read_part(
    logits: Float[Tensor, "N V"], targets: Integer[Tensor, " N"], temperature: float
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Return log p(target) and the entropy −Σ p log p, p being the softmax of logits / temperature."""
    scaled = logits.float() / temperature
    log_z = scaled.logsumexp(-1)
    entropy = log_z - ((scaled - log_z[:, None]).exp() * scaled).sum(-1)
    return scaled.gather(-1, targets[:, None]).squeeze(-1) - log_z, entropy
