"""How a model is asked for the log-probabilities of given tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from a2tgpo.scoring.batch import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Float, Integer
    from transformers import PreTrainedModel


class LabelLogps(Protocol):
    """Log-probability of `labels[b, i]` given the tokens before column i of row b.

    The hidden state of column i − 1 predicts column i, so column 0 has no predictor and gets 0, as does every
    column whose label is −100. `model_kwargs` go to the model: `attention_mask` (2D or 4D), `position_ids`,
    `past_key_values`; a cache that is passed is filled in place. Returns float32.
    """

    def __call__(
        self, input_ids: Integer[Tensor, "B L"], labels: Integer[Tensor, "B L"], **model_kwargs: Any
    ) -> Float[Tensor, "B L"]: ...


def plain_forward(model: PreTrainedModel, temperature: float = 1.0) -> LabelLogps:
    """Read log-probabilities from any Hugging Face causal language model.

    The output head runs only on the columns that some row needs, when the model's `forward` takes
    `logits_to_keep`; the log-softmax of logits / `temperature` is in float32.

    Raises `ValueError` for a temperature that is not positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; pass a positive number (1.0 leaves the logits alone).")
    keeps_columns = "logits_to_keep" in inspect.signature(model.forward).parameters
    extra = _no_router_loss(model)

    def forward(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        targets = labels[:, 1:]
        columns = (targets != IGNORED).any(0).nonzero().squeeze(1)
        if keeps_columns:
            model_kwargs["logits_to_keep"] = columns
        use_cache = "past_key_values" in model_kwargs
        logits = model(input_ids=input_ids, use_cache=use_cache, **extra, **model_kwargs).logits
        if not keeps_columns:
            logits = logits[:, columns]
        targets = targets[:, columns]
        logps = torch.log_softmax(logits.float() / temperature, dim=-1)
        logps = logps.gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1).masked_fill(targets == IGNORED, 0)
        return logps.new_zeros(labels.shape).index_copy(1, columns + 1, logps)

    return forward


def fused_forward(
    model: PreTrainedModel, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> LabelLogps:
    """Read log-probabilities through the fused output head that TRL adds to a model (`add_fused_lm_head`).

    The logits are never materialised. The head's own temperature applies. `autocast` makes the context in
    which the model runs, such as an accelerator's.
    """
    extra = _no_router_loss(model)

    def forward(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Tensor:
        with autocast():
            output = model(input_ids=input_ids, labels=labels, fused_lm_head=True, **extra, **model_kwargs)
        return F.pad(output.log_probs.float(), (1, 0))

    return forward


def _no_router_loss(model: PreTrainedModel) -> dict[str, bool]:
    """Keep a mixture-of-experts model from its load-balancing loss, which cannot read a 4D mask."""
    asks = getattr(model.config.get_text_config(), "output_router_logits", False)
    return {"output_router_logits": False} if asks else {}
