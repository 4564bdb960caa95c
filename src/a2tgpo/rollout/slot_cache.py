"""Cache keys, values and states of rows, each with a length of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin, LinearAttentionLayer

from a2tgpo.rollout.slot_layout import Aside, Chunk, roomy
from a2tgpo.rollout.slot_states import SlotStates
from a2tgpo.signals.answer_likelihood.forward import name_cache, no_router_logits
from a2tgpo.signals.answer_likelihood.model_support import full_key_cache, layers_of

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass
class _Forward:
    """Hold what all layers know of the forward that runs now."""

    placement: Chunk | Aside | None = None


class SlotCache(Cache):
    """Store keys and values of rows, each from column 0 of its slot, with no padding between, and their states.

    Args:
        layers: transformers' own layers of the model's cache, empty.
        states: of the model's recurrent modules; None in a model without.
    """

    def __init__(self, layers: Sequence[Any], states: SlotStates | None = None) -> None:
        # Layers hold this and not the cache: memory in a circle of references is freed when Python gets to it.
        self._forward = _Forward()
        self.states = states
        super().__init__(layers=[_slot_layer(layer, self._forward) for layer in layers])

    @classmethod
    def of(cls, model: PreTrainedModel) -> SlotCache:
        """Make an empty one for `model`, of which `why_no_cache_reuse` admits the layers."""
        return cls(full_key_cache(model.config).layers, SlotStates.of(model))

    @contextmanager
    def running(self, placement: Chunk | Aside) -> Iterator[None]:
        """Say, for the forward inside the block, which slots its rows are and where its tokens go."""
        self._forward.placement = placement
        if self.states is None or not isinstance(placement, Chunk):
            yield
            return
        with self.states.advancing(self, placement):
            yield

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` columns of slot `source`, and its states: with these, `length` must be
        all that `source` has read."""
        if length == 0:
            return
        if self.states is not None:
            self.states.copy(source, target)
        for layer in self.layers:
            if not isinstance(layer, _SlotLayer) or not layer.is_initialized:
                continue
            layer.make_room(target + 1, length)
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]


class _SlotLayer(CacheLayerMixin):
    """Store one layer: `keys` and `values` are [slots, heads, columns, head size]; slots and columns grow as needed.

    With columns inside heads attention reads a head's keys in one run, on the CPU twice as fast as the other way round.
    """

    is_sliding = False

    def __init__(self, forward: _Forward) -> None:
        super().__init__()
        self._forward = forward

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            states.new_zeros(0, states.size(1), 0, states.size(3)) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def make_room(self, n_slots: int, n_columns: int) -> None:
        self.keys, self.values = (roomy(store, n_slots, n_columns) for store in (self.keys, self.values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        placement = self._forward.placement
        assert placement is not None, "no placement set for this forward"
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys, keys = placement.place(self.keys, key_states)
        self.values, values = placement.place(self.values, value_states)
        return keys, values

    def get_seq_length(self) -> int:
        # The model asks only to number positions and build masks, both of which it is given.
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        raise AssertionError("the model builds a mask of its own although it is given one")

    def get_max_length(self) -> int:
        return -1


class _SlotAndStateLayer(_SlotLayer, LinearAttentionLayer):
    """Store a layer's keys and values, and stand for its states, which `SlotStates` keeps."""

    def __init__(self, forward: _Forward, number_of_states: int) -> None:
        LinearAttentionLayer.__init__(self, number_of_states)
        _SlotLayer.__init__(self, forward)


def _slot_layer(layer: Any, forward: _Forward) -> Any:
    """Return the layer that takes the place of transformers' own."""
    if not isinstance(layer, LinearAttentionLayer):
        return _SlotLayer(forward)
    # Without keys there is nothing to place.
    return _SlotAndStateLayer(forward, layer.number_of_states) if hasattr(layer, "update") else layer


class SlotForward:
    """Run a model over chunks of the rows in its `SlotCache`."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._layers = model, layers_of(model.config)
        # Properties that walk through the modules at every call.
        self._dtype = model.dtype
        self._extra = no_router_logits(model)

    def __call__(self, chunk: Chunk, cache: SlotCache, n_logits: int = 1) -> Float[Tensor, "R N V"]:
        """Return the logits of the last `n_logits` columns."""
        with cache.running(chunk):
            kept = {"past_key_values": cache, "use_cache": True, "logits_to_keep": n_logits}
            return self._model(
                input_ids=chunk.input_ids,
                attention_mask=chunk.attention_mask(self._dtype, self._layers),
                position_ids=chunk.position_ids,
                **name_cache(self._model, kept),
                **self._extra,
            ).logits
