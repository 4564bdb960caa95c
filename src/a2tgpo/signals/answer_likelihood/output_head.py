"""Apply a model's output head only to hidden states whose next token is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Integer
    from transformers import PreTrainedModel

LOGITS_AT_ONCE = 1 << 26
"""Logits that exist at a time: 256 MB in float32, 441 positions of a vocabulary of 152,000."""

_MULTIPLIERS = ("logit_scale", "output_multiplier", "lm_head_multiplier")


@dataclass(frozen=True)
class OutputHead:
    """Compute log_softmax(f(W h) / temperature), f being the scale and the soft cap that the model's config names.

    f(x) = cap · tanh(m x / cap), or m x where the config has no `final_logit_softcapping`.
    """

    project: Any
    multiplier: float
    cap: float | None
    temperature: float

    @classmethod
    def of(cls, model: PreTrainedModel, temperature: float = 1.0) -> OutputHead:
        """Read the head of a causal language model, and run two tokens to see that f is the model's own.

        Raises `ValueError` when the model turns hidden states into logits in some other way.
        """
        config = model.config.get_text_config()
        factors = [getattr(config, name, None) for name in _MULTIPLIERS]
        factors.append(1 / (getattr(config, "logits_scaling", None) or 1.0))
        head = cls(
            project=model.get_output_embeddings(),
            multiplier=next(float(factor) for factor in factors if factor is not None),
            cap=getattr(config, "final_logit_softcapping", None),
            temperature=temperature,
        )
        hidden, logits = _two_tokens(model)
        tolerance = 16 * torch.finfo(logits.dtype).eps * logits.abs().amax()
        if hidden.ndim != 3 or bool((head.logits(hidden) - logits).abs().amax() > tolerance):
            raise ValueError(
                f"model type {config.model_type!r} makes its logits in a way that plain_forward does not know; "
                "add TRL's head (trl.trainer.utils.add_fused_lm_head) and score with fused_forward."
            )
        return head

    def logits(self, hidden: Float[Tensor, "*N H"]) -> Float[Tensor, "*N V"]:
        logits = self.project(hidden)
        if self.multiplier != 1.0:
            logits = logits * self.multiplier
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def logps(self, hidden: Float[Tensor, "N H"], targets: Integer[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Read log-probabilities of the targets in float32; `LOGITS_AT_ONCE` bounds the logits that exist at a time."""
        positions = max(LOGITS_AT_ONCE // self.project.weight.shape[0], 1)
        chunks = zip(hidden.split(positions), targets.split(positions), strict=True)
        return torch.cat([self._chunk(*chunk) for chunk in chunks])

    def _chunk(self, hidden: Tensor, targets: Tensor) -> Tensor:
        logits = self.logits(hidden).float() / self.temperature
        return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)


def backbone_of(model: PreTrainedModel) -> Any:
    """Give what a causal language model puts its output head on."""
    return model.base_model if model.base_model is not model else model.model


@torch.no_grad()
def _two_tokens(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Take hidden states and logits of the same forward, so that dropout cannot tell them apart."""
    hidden: list[Tensor] = []
    hook = backbone_of(model).register_forward_hook(lambda *call: hidden.append(call[-1][0]))
    try:
        logits = model(input_ids=torch.tensor([[0, 1]], device=model.device), use_cache=False).logits
    finally:
        hook.remove()
    return hidden[0] if hidden else logits[0], logits
