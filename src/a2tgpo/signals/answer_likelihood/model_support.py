"""Say which models can be scored from the KV cache of the trajectory's own pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_MASKS_4D = (None, "sdpa", "eager")
_POSITION_FROM_COLUMN = ("bloom", "mpt", "gpt_neo")
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")


def why_not_cached(model_config: PreTrainedConfig) -> str | None:
    """Say why this model's cache cannot be cut at a turn boundary, or None when it can.

    An answer suffix must see exactly the keys before its boundary, with the values they would have if the text ended
    there. That holds when every layer keeps all its keys and values, attention takes a 4D mask, and a token's
    position enters through `position_ids` alone.
    """
    config = model_config.get_text_config(decoder=True)
    attention = config._attn_implementation
    if attention not in _MASKS_4D:
        return (
            f"attn_implementation={attention!r} takes no 4D attention mask; "
            "load the model with attn_implementation='sdpa'"
        )
    layers = {type(layer) for layer in DynamicCache(config=config).layers} - {DynamicLayer}
    if layers:
        names = ", ".join(sorted(layer.__name__ for layer in layers))
        return (
            f"model type {config.model_type!r} has layers that do not keep every token's keys and values "
            f"(sliding window, linear attention or similar: {names})"
        )
    if config.model_type in _POSITION_FROM_COLUMN or getattr(config, "alibi", False):
        return f"model type {config.model_type!r} takes a token's position from its column in the row"
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        rope_type = parameters.get("rope_type")
        if rope_type in _LENGTH_DEPENDENT_ROPE:
            return f"rope_type {rope_type!r} rotates keys by angles that depend on the length of the row"
    return None


def needs_additive_mask(model_config: PreTrainedConfig) -> bool:
    """Tell whether this model's attention adds its mask to the scores, and so cannot take a boolean one."""
    return bool(model_config.get_text_config(decoder=True)._attn_implementation == "eager")
