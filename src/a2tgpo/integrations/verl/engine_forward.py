"""Read log-probabilities of given tokens through the module that an engine trains, whatever wraps it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from a2tgpo.signals.answer_likelihood import LabelLogps, ModelForward
from a2tgpo.signals.answer_likelihood.forward import no_router_logits
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Float

ROWS_AT_ONCE = 512
"""Rows of logits that exist in float32 at a time."""


def causal_model(module: nn.Module) -> PreTrainedModel:
    """Return the language model inside FSDP's, PEFT's or another wrapper."""
    return next(part for part in module.modules() if isinstance(part, PreTrainedModel))


def module_forward(
    module: nn.Module, autocast: Callable[[], AbstractContextManager[Any]], temperature: float
) -> LabelLogps:
    """Return a forward of the whole module, which a sharded model needs, whose output head sees no more than what is
    read: hidden states are cut to those that predict a label on their way to it.

    Args:
        module: as the engine runs it.
        autocast: makes the context of the engine's own forwards.
        temperature: that logits are divided by in the loss.
    """
    model = causal_model(module)
    extra = no_router_logits(module)

    def forward(input_ids: Tensor, labels: Tensor, **model_kwargs: Any) -> Float[Tensor, "B L"]:
        rows, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        targets = labels[rows, columns + 1].to(input_ids.device)
        rows, columns = rows.to(input_ids.device), columns.to(input_ids.device)

        def keep_read(_: nn.Module, __: Any, output: Any) -> Any:
            output.last_hidden_state = output.last_hidden_state[rows, columns][None]
            return output

        hook = model.base_model.register_forward_hook(keep_read)
        try:
            with autocast():
                use_cache = "past_key_values" in model_kwargs
                logits = module(input_ids=input_ids, use_cache=use_cache, **extra, **model_kwargs).logits[0]
        finally:
            hook.remove()
        logps = torch.zeros(labels.shape, device=input_ids.device)
        return logps.index_put((rows, columns + 1), _logps(logits, targets, temperature))

    return ModelForward(forward, module, autocast)


def _logps(logits: Float[Tensor, "N V"], targets: Tensor, temperature: float) -> Float[Tensor, " N"]:
    if not len(targets):
        return torch.zeros(0, device=targets.device)
    if hasattr(logits, "full_tensor"):  # sharded over the vocabulary
        logits = logits.full_tensor()
    parts = []
    for part, target in zip(logits.split(ROWS_AT_ONCE), targets.split(ROWS_AT_ONCE), strict=True):
        scaled = part.float() / temperature
        parts.append(scaled.gather(-1, target[:, None]).squeeze(-1) - scaled.logsumexp(-1))
    return torch.cat(parts)
