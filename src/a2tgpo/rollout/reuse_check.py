"""See that a model nobody has tested, or one with states, writes the same with KV-cache reuse before it does so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from a2tgpo.rollout.engine import evaluating
from a2tgpo.rollout.slot_cache import SlotCache, SlotForward
from a2tgpo.rollout.slot_layout import Chunk
from a2tgpo.signals.answer_likelihood.forward import no_router_logits
from a2tgpo.signals.answer_likelihood.model_support import TESTED, layers_of, own_part

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOLERANCE, _LOW_PRECISION_TOLERANCE = 1e-3, 0.1
"""Nats by which a next token's log-probability may differ, relative where it is below −1."""

_ROWS = (9, 5)
"""Tokens of the rows that are read both ways; the last `_LATER` of each in a second forward."""
_LATER = (3, 1)

_found: dict[tuple[object, ...], str | None] = {}


def why_not_reused(model: PreTrainedModel) -> str | None:
    """Say how a reading in two forwards from a `SlotCache`, as `KVCacheEngine` reads, differs from one without a cache.

    None where the two agree. Asked once in this process for each configuration, device and precision, and not of
    families without states that the tests have seen, in transformers' own code.
    """
    config = model.config.get_text_config(decoder=True)
    keys_alone = not any(layer.recurrent for layer in layers_of(config))  # kernels of states differ between machines
    if config.model_type in TESTED and keys_alone and own_part(model) is None:
        return None
    low = torch.is_autocast_enabled(model.device.type) or model.dtype not in (torch.float32, torch.float64)
    # Kernels differ between devices and precisions.
    key = type(model), config.to_json_string(), str(config._attn_implementation), model.device.type, model.dtype, low
    if key not in _found:
        try:
            worst = _difference(model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture nobody has seen makes of a cache and a mask
            _found[key] = f"reading from a KV cache raised {type(error).__name__}: {str(error)[:200]}"
        else:
            agrees = worst <= (_LOW_PRECISION_TOLERANCE if low else _TOLERANCE)
            reason = f"with KV-cache reuse {type(model).__name__} gives other log-probabilities, by {worst:.1e}"
            _found[key] = None if agrees else reason
    return _found[key]


@torch.no_grad()
def _difference(model: PreTrainedModel) -> float:
    config, device = model.config.get_text_config(decoder=True), model.device
    ids = torch.randint(min(config.vocab_size, 1000), (sum(_ROWS),), generator=torch.Generator().manual_seed(0))
    rows = [row.tolist() for row in ids.split(_ROWS)]
    first = [len(row) - later for row, later in zip(rows, _LATER, strict=True)]
    extra: dict[str, Any] = no_router_logits(model)
    with evaluating(model):
        cache, forward = SlotCache.of(model), SlotForward(model)
        for parts, stored in (
            ([row[:n] for row, n in zip(rows, first, strict=True)], [0, 0]),
            ([row[n:] for row, n in zip(rows, first, strict=True)], first),
        ):
            reused = forward(Chunk.pack(parts, stored, [0, 1], device), cache)[:, -1]
        alone = [
            model(input_ids=torch.tensor([row], device=device), use_cache=False, **extra).logits[:, -1] for row in rows
        ]
    ours, theirs = (logits.float().log_softmax(-1) for logits in (reused, torch.cat(alone)))
    return float(((ours - theirs).abs() / theirs.abs().clamp(min=1)).max())
