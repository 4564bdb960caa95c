"""Say how a model's layers keep what came before, and which models can be scored from the trajectory's own pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers.cache_utils import DynamicCache, DynamicLayer

from a2tgpo.signals.answer_likelihood.tested_families import TESTED

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

_MASKS_4D = (None, "sdpa", "eager")
_POSITION_FROM_COLUMN = ("bloom", "mpt", "gpt_neo")
_NO_INITIAL_STATE = "starts every forward of several tokens from no state in its Mamba-1 layers"
_OWN_CACHE = "keeps what came before elsewhere than in the cache it is given"
_CHOOSES_KEYS = "chooses the keys it attends to by the whole row"
_REFUSED = {
    **dict.fromkeys(("mamba", "falcon_mamba", "jamba", "zamba"), _NO_INITIAL_STATE),
    **dict.fromkeys(("minimax", "recurrent_gemma", "rwkv", "xlstm", "cpmant"), _OWN_CACHE),
    **dict.fromkeys(("openai-gpt", "prophetnet", "whisper", "xlm", "xlnet"), _OWN_CACHE),
    **dict.fromkeys(("big_bird", "bigbird_pegasus", "doge", "minimax_m3_vl_text"), _CHOOSES_KEYS),
    **dict.fromkeys(("inkling_text", "inkling2_text", "zaya"), "has convolutions inside its attention"),
}
_LIBRARIES = ("transformers.", "torch.", "trl.", "peft.", "accelerate.", "bitsandbytes.", "deepspeed.")
_LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")

_FULL, _SLIDING, _NOTHING = "DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer"
_RECURRENT = "LinearAttentionLayer"
_RECURRENT_AND_FULL = "LinearAttentionAndFullAttentionLayer"
_RECURRENT_AND_SLIDING = "LinearAttentionAndSlidingWindowAttentionLayer"
_HANDLED = {_FULL, _SLIDING, _NOTHING, _RECURRENT, _RECURRENT_AND_FULL, _RECURRENT_AND_SLIDING}


@dataclass(frozen=True)
class Layer:
    """Say what one layer keeps of the tokens before.

    Attributes:
        kind: the config's name of the layer, by which transformers picks its mask; "" where the config names none.
        attends: it has keys and values.
        window: tokens its attention reaches back, its own included; None is all of them.
        chunked: the window is a block of `window` tokens that starts anew at each multiple, not a sliding one.
        recurrent: it keeps a state of fixed size: linear attention, a state-space model, a convolution.
    """

    kind: str
    attends: bool
    window: int | None
    chunked: bool
    recurrent: bool


def layers_of(model_config: PreTrainedConfig) -> list[Layer]:
    """Describe each layer of a model that `why_not_cached` admits."""
    config = model_config.get_text_config(decoder=True)
    found = []
    kinds = list(getattr(config, "layer_types", None) or [])
    for number, layer in enumerate(DynamicCache(config=config).layers):
        kind = kinds[number] if number < len(kinds) else ""
        name = type(layer).__name__
        found.append(
            Layer(
                kind,
                attends=name not in (_RECURRENT, _NOTHING),
                window=layer.sliding_window if name in (_SLIDING, _RECURRENT_AND_SLIDING) else None,
                chunked="chunked" in kind or (not kinds and getattr(config, "sliding_window", None) is None),
                recurrent=name in (_RECURRENT, _RECURRENT_AND_FULL, _RECURRENT_AND_SLIDING),
            )
        )
    return found


class FirstKeysLayer(DynamicLayer):
    """Keep the first forward's keys and values as they are, uncopied; later ones are appended to a copy."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        self.lazy_initialization(key_states, value_states)
        self.keys, self.values = key_states, value_states
        return key_states, value_states


def full_key_cache(model_config: PreTrainedConfig) -> DynamicCache:
    """Make an empty cache in which every attention layer keeps all its keys, behind a sliding window too."""
    from transformers import cache_utils

    cache = DynamicCache(config=model_config)
    for number, layer in enumerate(cache.layers):
        if type(layer).__name__ in (_FULL, _SLIDING):
            cache.layers[number] = FirstKeysLayer()
        elif type(layer).__name__ == _RECURRENT_AND_SLIDING:
            cache.layers[number] = getattr(cache_utils, _RECURRENT_AND_FULL)(layer.number_of_states)
    return cache


def why_not_cached(model_config: PreTrainedConfig) -> str | None:
    """Say why answers cannot be read from the pass over this model's trajectories, or None when they can.

    An answer suffix must see exactly what is before its boundary, as if the text ended there. Keys behind the boundary
    are masked; a state of fixed size is kept at each boundary; an attention that takes no 4D mask reads the
    trajectory, and another one the suffixes. What is left are layers of other kinds, and positions that enter
    otherwise than through `position_ids`.
    """
    config = model_config.get_text_config(decoder=True)
    if (obstacle := _why_no_boundary(config)) is not None:
        return obstacle
    layers = DynamicCache(config=config).layers
    if unknown := {type(layer).__name__ for layer in layers} - _HANDLED:
        return f"model type {config.model_type!r} has layers that keep something else ({', '.join(sorted(unknown))})"
    windows = {(layer.window, layer.chunked) for layer in layers_of(config) if layer.window is not None}
    if len(windows) > 1:
        sizes = ", ".join(sorted(str(size) for size, _ in windows))
        return f"model type {config.model_type!r} has attention windows of several sizes ({sizes})"
    return None


def needs_check(model_config: PreTrainedConfig, model: Any = None) -> bool:
    """Tell whether one rollout must be scored both ways first: for a family the tests have not seen, a `model` with
    parts of somebody's own, and wherever more than a mask cuts the text at a boundary, since kernels differ between
    machines."""
    return why_not_by_mask(model_config, model) is not None


def why_not_by_mask(model_config: PreTrainedConfig, model: Any = None) -> str | None:
    """Say why a mask of ours in all layers is not known to cut this model's rows, or None when the tests have seen it:
    full attention in a tested family, by transformers' own code."""
    config = model_config.get_text_config(decoder=True)
    if config.model_type not in TESTED:
        return f"the tests have not seen model type {config.model_type!r}"
    if model is not None and (part := own_part(model)) is not None:
        return f"{part} is not transformers' own {config.model_type!r}"
    return why_not_full_attention(config)


def own_part(model: Any) -> str | None:
    """Name a module of the model whose code is somebody's own, such as the Hub's, whatever its `model_type` says; None
    where there is none."""
    for module in model.modules():
        if not type(module).__module__.startswith(_LIBRARIES):
            return type(module).__qualname__
    return None


def why_not_full_attention(model_config: PreTrainedConfig) -> str | None:
    """Say why a row's keys and values are not all there is to this model, or None when they are.

    That holds when every layer keeps all keys and values, attention takes a 4D mask, and a token's position enters
    through `position_ids` alone.
    """
    config = model_config.get_text_config(decoder=True)
    if (attention := config._attn_implementation) not in _MASKS_4D:
        return (
            f"attn_implementation={attention!r} takes no 4D attention mask; "
            "load the model with attn_implementation='sdpa'"
        )
    if others := {type(layer).__name__ for layer in DynamicCache(config=config).layers} - {_FULL}:
        return (
            f"model type {config.model_type!r} has layers that do not keep every token's keys and values "
            f"(sliding window, linear attention or similar: {', '.join(sorted(others))})"
        )
    return _why_no_boundary(config)


def why_not_kept(model_config: PreTrainedConfig) -> str | None:
    """Say why what a row's layers keep, under a mask for each kind of them, is not all that later tokens need of it, or
    None when it is: full attention, or windows and states in a family that the tests have seen."""
    config = model_config.get_text_config(decoder=True)
    if (obstacle := why_not_full_attention(config)) is None:
        return None
    if config._attn_implementation not in _MASKS_4D or config.model_type not in TESTED:
        return obstacle
    return why_not_cached(config)


def masks_by_kind(
    layers: Sequence[Layer], mask: Callable[[Layer | None], Tensor]
) -> Tensor | dict[str, Tensor | None] | None:
    """Return the mask of a forward, or one by the name of each kind of layer where their attention differs; none for a
    model without attention.

    Args:
        layers: of the model; of full attention where none are given.
        mask: makes the mask of a layer.
    """
    attending = [layer for layer in layers if layer.attends]
    if layers and not attending:
        return None
    distinct = {layer.window: layer for layer in attending}
    if len(distinct) <= 1:
        return mask(*distinct.values()) if distinct else mask(None)
    by_window = {window: mask(layer) for window, layer in distinct.items()}
    windowed = next(made for window, made in by_window.items() if window is not None)
    # Layers without keys of their own may read others', and layers of two kinds take both kinds' masks: the names
    # of all kinds are there.
    full: dict[str, Tensor | None] = {"full_attention": by_window.get(None, windowed)}
    windows = dict.fromkeys(("sliding_attention", "chunked_attention"), windowed)
    without = dict.fromkeys(("linear_attention", "conv", *(layer.kind for layer in layers)))
    return without | full | windows | {layer.kind: by_window[layer.window] for layer in attending}


def _why_no_boundary(config: PreTrainedConfig) -> str | None:
    """Say why a prefix of a row differs from a row that ends there."""
    if config.model_type in _REFUSED:
        return f"model type {config.model_type!r} {_REFUSED[config.model_type]}"
    if getattr(config, "attn_temperature_tuning", False):
        return f"model type {config.model_type!r} scales attention by how many tokens are in the cache"
    if config.model_type in _POSITION_FROM_COLUMN or getattr(config, "alibi", False):
        return f"model type {config.model_type!r} takes a token's position from its column in the row"
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        rope_type = parameters.get("rope_type")
        if rope_type in _LENGTH_DEPENDENT_ROPE:
            return f"rope_type {rope_type!r} rotates keys by angles that depend on the length of the row"
    return None


def suffix_attention(model_config: PreTrainedConfig, model: Any = None) -> str:
    """Name the attention that reads answer suffixes: the model's own where it takes a 4D mask, else sdpa or, where
    the model has none of it, eager."""
    own = model_config.get_text_config(decoder=True)._attn_implementation
    if own in _MASKS_4D:
        return own or "sdpa"
    supported = [getattr(module, "_supports_sdpa", None) for module in (model.modules() if model is not None else ())]
    return "sdpa" if any(supported) else "eager"


@contextmanager
def attending_by(model_config: PreTrainedConfig, attention: str) -> Iterator[None]:
    """Let the model attend by `attention` inside the block, and by its own afterwards, whatever happens."""
    config = model_config.get_text_config(decoder=True)
    own = config._attn_implementation
    if own in (attention, None):
        yield
        return
    config._attn_implementation = attention
    try:
        yield
    finally:
        config._attn_implementation = own


def needs_additive_mask(model_config: PreTrainedConfig) -> bool:
    """Tell whether this model's attention adds its mask to the scores, and so cannot take a boolean one."""
    return bool(model_config.get_text_config(decoder=True)._attn_implementation == "eager")
