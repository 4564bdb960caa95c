"""Cache keys and values of rows, each with a length of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from a2tgpo.signals.answer_likelihood.model_support import Layer, masks_by_kind

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_SLOTS_AT_A_TIME = 32
_COLUMNS_AT_A_TIME = 256


@dataclass(frozen=True)
class Chunk:
    """Lay out the next tokens of R rows as one forward of N columns, left-padded; row r lives in slot `slots[r]`.

    Left padding puts every row's last token in the last column, the only one whose logits are wanted.
    """

    input_ids: Int[Tensor, "R N"]
    position_ids: Int[Tensor, "R N"]
    slots: Int[Tensor, " R"]
    tokens: tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
    """Row and column of each real token, row by row."""
    places: tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
    """Slot and column of the cache where each of them goes."""
    n_keys: int
    """Columns of the cache that the longest row needs."""
    n_slots: int
    """Slots of the cache that the rows need."""
    in_order: bool
    """True if `slots` is 0, 1, ..., R − 1, which spares a copy of the keys."""

    @classmethod
    def pack(
        cls, tokens: Sequence[Sequence[int]], stored: Sequence[int], slots: Sequence[int], device: torch.device
    ) -> Chunk:
        """Pack `tokens[r]`, at least one each, that follow the `stored[r]` tokens that slot `slots[r]` holds."""
        width = max(map(len, tokens))
        # A padding column repeats position 0: it must see some key, and what it computes is read by nobody.
        ids = [[0] * (width - len(row)) + list(row) for row in tokens]
        positions = [
            [0] * (width - len(row)) + list(range(start, start + len(row)))
            for row, start in zip(tokens, stored, strict=True)
        ]
        where = [(r, c) for r, row in enumerate(tokens) for c in range(width - len(row), width)]
        located = torch.tensor([(r, c, slots[r], positions[r][c]) for r, c in where]).T.to(device)
        return cls(
            input_ids=torch.tensor(ids).to(device),
            position_ids=torch.tensor(positions).to(device),
            slots=torch.tensor(slots).to(device),
            tokens=(located[0], located[1]),
            places=(located[2], located[3]),
            n_keys=max(len(row) + start for row, start in zip(tokens, stored, strict=True)),
            n_slots=max(slots) + 1,
            in_order=list(slots) == list(range(len(slots))),
        )

    def attention_mask(
        self, dtype: torch.dtype, layers: Sequence[Layer] = ()
    ) -> Float[Tensor, "R 1 N K"] | dict[str, Float[Tensor, "R 1 N K"] | None] | None:
        """Return what is added to attention scores: 0 on a row's tokens up to the token itself, else the lowest number;
        by kind where some of the model's `layers` look back through a window.

        Every layer would turn a boolean mask into this one.
        """
        key, query = torch.arange(self.n_keys, device=self.slots.device), self.position_ids[:, :, None]

        def mask(layer: Layer | None) -> Tensor:
            seen = key <= query
            if layer is not None and layer.window is not None:
                near = key // layer.window == query // layer.window if layer.chunked else key > query - layer.window
                seen = seen & near
            added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            return added.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]

        return masks_by_kind(layers, mask)

    def place(self, store: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the store with the chunk's `states` in their slots, and what the chunk's rows see of it."""
        store = _roomy(store, self.n_slots, self.n_keys)
        (rows, at), (slots, columns) = self.tokens, self.places
        store[slots, :, columns] = states[rows, :, at]
        seen = store[:, :, : self.n_keys]
        return store, seen[: len(self.slots)] if self.in_order else seen[self.slots]


@dataclass(frozen=True)
class Aside:
    """Lay out a forward whose rows see `n_columns` columns of `slots` and their own tokens, which are not stored."""

    slots: Int[Tensor, " R"]
    n_columns: int

    def place(self, store: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the store as it was, and what the rows see."""
        return store, torch.cat([store[self.slots, :, : self.n_columns], states], dim=2)


@dataclass
class _Forward:
    """Hold what all layers know of the forward that runs now."""

    placement: Chunk | Aside | None = None


class SlotCache(Cache):
    """Store keys and values of rows, each from column 0 of its slot, with no padding between.

    Set `placement` before every forward: it says which slots the forward's rows are and where its tokens go.
    """

    def __init__(self, n_layers: int) -> None:
        # Layers hold this and not the cache: memory in a circle of references is freed when Python gets to it.
        self._forward = _Forward()
        super().__init__(layers=[_SlotLayer(self._forward) for _ in range(n_layers)])

    @property
    def placement(self) -> Chunk | Aside | None:
        """Return the placement of the forward that runs now."""
        return self._forward.placement

    @placement.setter
    def placement(self, placement: Chunk | Aside) -> None:
        self._forward.placement = placement

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` columns of slot `source`."""
        if length == 0:
            return
        for layer in self.layers:
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
        self.keys, self.values = (_roomy(store, n_slots, n_columns) for store in (self.keys, self.values))

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


def _roomy(store: Tensor, n_slots: int, n_columns: int) -> Tensor:
    if n_slots <= store.size(0) and n_columns <= store.size(2):
        return store
    n_slots = max(store.size(0), -(-n_slots // _SLOTS_AT_A_TIME) * _SLOTS_AT_A_TIME)
    n_columns = max(store.size(2), -(-n_columns // _COLUMNS_AT_A_TIME) * _COLUMNS_AT_A_TIME)
    # Zeros, not memory as found: a masked key has weight 0, and 0 times NaN is NaN.
    grown = store.new_zeros(n_slots, store.size(1), n_columns, store.size(3))
    grown[: store.size(0), :, : store.size(2)] = store
    return grown
