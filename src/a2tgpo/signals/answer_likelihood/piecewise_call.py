"""Call a module piece by piece: by segments of its rows, or by suffixes, from given states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers import cache_utils

if TYPE_CHECKING:
    from jaxtyping import Integer
    from transformers import Cache

State = dict[tuple[str, int], Tensor]
"""Tensors of some rows of one module, [R, ...], by their name and number in transformers' cache; none of rows that have
read nothing. What is kept of a trajectory is a row's own, [1, ...]."""


class Segment(NamedTuple):
    """Name columns `start` to `end` (exclusive) of `rows`."""

    rows: tuple[int, ...]
    start: int
    end: int


class PiecewiseCall:
    """Call a module piece by piece in place of one call over whole rows, `[B, L, ...]`, and join what it returns."""

    def __init__(self, call: Callable[..., Any], cache: Cache, layer: int, args: Any, kwargs: Any) -> None:
        self._call, self._cache, self._layer, self._args, self._kwargs = call, cache, layer, args, kwargs
        hidden = next(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor) and x.ndim == 3)
        self._shape = hidden.shape[:2]
        self._hidden: Tensor | None = None
        self._rest: tuple[Any, ...] | None = None

    @property
    def output(self) -> Any:
        """Give what the module would have returned: hidden states, and whatever the last call returned beside them."""
        return self._hidden if self._rest is None else (self._hidden, *self._rest)

    def advance(self, segment: Segment, state: State) -> State:
        """Run a segment from its rows' `state`, and give their state after it."""
        rows = list(segment.rows)
        contiguous = rows == list(range(rows[0], rows[-1] + 1))
        index = (slice(rows[0], rows[-1] + 1) if contiguous else rows, slice(segment.start, segment.end))
        found, layer = self._run(lambda x: x[index], state)
        self._hidden_like(found)[index] = found
        return read_states(layer)

    def suffixes(self, grid: Integer[Tensor, "N M"], start: Sequence[State]) -> Any:
        """Run each suffix as a row of its own from its state, zero where there is none; padded on the right."""
        blank = {name: torch.zeros_like(x) for name, x in next((state for state in start if state), {}).items()}
        # A model split over devices has its layers where they lie.
        state = joined([state or blank for state in start]) if blank else {}
        found, _ = self._run(lambda x: x.flatten(0, 1)[grid.to(x.device)], state)
        self._hidden_like(found).flatten(0, 1)[grid.to(found.device)] = found
        return self.output

    def _hidden_like(self, found: Tensor) -> Tensor:
        if self._hidden is None:
            self._hidden = found.new_zeros(*self._shape, *found.shape[2:])
        return self._hidden

    def _run(self, cut: Callable[[Tensor], Tensor], state: State) -> tuple[Tensor, Any]:
        """Call the module on what `cut` leaves of its tensors, and give its hidden states and its layer's states."""
        own = self._cache.layers[self._layer]
        layer = self._cache.layers[self._layer] = _layer_with(state, own)
        try:
            args, kwargs = self._cut(self._args, cut), self._cut(self._kwargs, cut)
            found = self._call(*args, **kwargs)
        finally:
            self._cache.layers[self._layer] = own
        if isinstance(found, tuple):
            found, *rest = found
            self._rest = tuple(rest)
        return found, layer

    def _cut(self, x: Any, cut: Callable[[Tensor], Tensor]) -> Any:
        if isinstance(x, Tensor):
            if x.shape[:2] == self._shape:
                return cut(x)
            return cut(x.expand(*self._shape, *x.shape[2:])) if x.shape[:2] == (1, self._shape[1]) else x
        if isinstance(x, tuple):
            return tuple(self._cut(part, cut) for part in x)
        return {name: self._cut(part, cut) for name, part in x.items()} if isinstance(x, dict) else x


def is_recurrent(layer: Any) -> bool:
    """Tell whether a layer of a cache holds states of fixed size."""
    return isinstance(layer, cache_utils.LinearAttentionCacheLayerMixin)


def read_states(layer: Any) -> State:
    """Give the states that the layer has been written."""
    states = {"conv_states": layer.conv_states, "recurrent_states": layer.recurrent_states}
    return {(name, n): x for name, own in states.items() for n, x in own.items() if x is not None}


def joined(states: Sequence[State]) -> State:
    """Give the states of rows one after the other; none where they have none."""
    return {name: torch.cat([state[name] for state in states]) for name in (states[0] if states else ())}


def _layer_with(state: State, like: Any) -> Any:
    """Make a layer whose rows have this state."""
    layer = cache_utils.LinearAttentionLayer(number_of_states=like.number_of_states)
    for (name, number), rows in state.items():
        getattr(layer, name)[number] = rows
        getattr(layer, f"is_{name}_initialized")[number] = True
        layer.has_previous_state[number] = True
        layer.device, layer.dtype = rows.device, rows.dtype
        if name == "conv_states":
            layer.conv_kernel_size[number] = rows.shape[-1]
    return layer
