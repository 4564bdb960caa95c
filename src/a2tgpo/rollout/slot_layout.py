"""Lay out forwards of rows that each have a slot, and a length of their own, in a KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

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
    n_tokens: tuple[int, ...]
    """Real tokens of each row, at least 1: its last columns."""
    n_stored: tuple[int, ...]
    """Tokens of each row that its slot holds already."""

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
            n_tokens=tuple(map(len, tokens)),
            n_stored=tuple(stored),
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
        store = roomy(store, self.n_slots, self.n_keys)
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


def roomy(store: Tensor, n_slots: int, n_columns: int = 0) -> Tensor:
    """Return a store of states, [slots, ...], or of keys, [slots, heads, columns, ...], that is at least as large."""
    if n_slots <= store.size(0) and (n_columns == 0 or n_columns <= store.size(2)):
        return store
    shape = list(store.shape)
    shape[0] = max(store.size(0), -(-n_slots // _SLOTS_AT_A_TIME) * _SLOTS_AT_A_TIME)
    if n_columns:
        shape[2] = max(store.size(2), -(-n_columns // _COLUMNS_AT_A_TIME) * _COLUMNS_AT_A_TIME)
    # Zeros, not memory as found: a masked key has weight 0, and 0 times NaN is NaN.
    grown = store.new_zeros(shape)
    grown[tuple(map(slice, store.shape))] = store
    return grown
