"""Cut what has a state of fixed size: linear attention, state-space models and convolutions, at turn boundaries.

Keys behind a boundary can be masked; a state that has run past it cannot. The modules that keep one, and they alone,
run in segments: each row's up to a boundary, where its state is kept, and on from there. An answer suffix continues
from the state kept at its boundary. Everything else in the model sees whole rows.

No state crosses padding, over which decay would run: segments after which a state is kept begin and end with real
tokens, but for the left padding before a prompt, where states are still zero.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import cache_utils

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps, model_of
from a2tgpo.signals.answer_likelihood.model_support import full_key_cache, layers_of
from a2tgpo.signals.answer_likelihood.packed_suffixes import PackedSuffixes
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Integer
    from transformers import Cache, PreTrainedConfig

State = dict[tuple[str, int], Tensor]
"""Tensors of one row of one module, [1, ...], by their name and number in transformers' cache."""


class Segment(NamedTuple):
    """Columns `start` to `end` (exclusive) of `rows`."""

    rows: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class RecurrentModules:
    """Name the modules of a model that keep states, each with the number of its layer."""

    modules: tuple[tuple[nn.Module, int], ...]

    @classmethod
    def of(cls, forward: LabelLogps, model_config: PreTrainedConfig, device: torch.device) -> RecurrentModules:
        """Find them by running two tokens, once for each model.

        Raises:
            ValueError: `forward` does not say what its model is, or a layer leaves no state in the cache.
        """
        model = model_of(forward)
        if model is None:
            raise ValueError(
                "this model keeps recurrent states, and the forward does not say in which modules; make it with "
                "plain_forward or fused_forward, or score with method='rows'."
            )
        if model not in _FOUND:
            modules = tuple(_find(forward, model, full_key_cache(model_config), device))
            recurrent = {n for n, layer in enumerate(layers_of(model_config)) if layer.recurrent}
            if unseen := recurrent - {number for _, number in modules}:
                raise ValueError(
                    f"model type {model_config.model_type!r} keeps the recurrent states of its layers "
                    f"{sorted(unseen)} elsewhere than in the cache; score with method='rows'."
                )
            _FOUND[model] = cls(modules)
        return _FOUND[model]

    @contextmanager
    def keeping(self, cache: Cache, boundaries: Boundaries, ends: Integer[Tensor, " B"]) -> Iterator[KeptStates]:
        """Run the modules of one forward over trajectories in segments, and keep their states at `boundaries`.

        The state before the last token of each prefix is kept, since a suffix reads that token again. Nothing is read
        past `ends`, and nothing run.
        """
        columns = (boundaries.columns - 1).tolist()
        cuts = [
            sorted({column for column, exists in zip(row, there, strict=True) if exists})
            for row, there in zip(columns, boundaries.exists.tolist(), strict=True)
        ]
        segments = _segments(cuts, ends.tolist())
        kept = KeptStates({module: {} for module, _ in self.modules}, columns)

        def run(module: nn.Module, layer: int, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            calls = _Calls(call, cache, layer, args, kwargs)
            states: dict[int, State] = {}
            for segment in segments:
                states |= calls.advance(segment, states)
                for row in segment.rows:
                    kept.states[module][row, segment.end] = states[row]
            return calls.output

        with self._replaced(run):
            yield kept

    @contextmanager
    def continuing(
        self, cache: Cache, kept: KeptStates, packed: PackedSuffixes, device: torch.device
    ) -> Iterator[None]:
        """Run the modules of one forward over packed suffixes, each from the state kept at its boundary."""
        suffixes, grid = _grid(packed)
        grid = upload(grid, device)

        def run(module: nn.Module, layer: int, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            states = kept.states[module]
            start = [states.get((row, kept.columns[row][boundary]), {}) for row, boundary in suffixes]
            return _Calls(call, cache, layer, args, kwargs).suffixes(grid, start)

        with self._replaced(run):
            yield

    @contextmanager
    def _replaced(self, run: Callable[..., Any]) -> Iterator[None]:
        def replacement(module: nn.Module, layer: int) -> Callable[..., Any]:
            own = module.forward
            return lambda *args, **kwargs: run(module, layer, own, args, kwargs)

        before = [(module, module.__dict__.get("forward")) for module, _ in self.modules]
        try:
            for module, layer in self.modules:
                module.forward = replacement(module, layer)
            yield
        finally:
            for module, forward in before:
                if forward is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.forward = forward


_FOUND: weakref.WeakKeyDictionary[nn.Module, RecurrentModules] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class KeptStates:
    """Hold each module's states by row and column: what it knows after the columns before.

    `columns[row][k]` is the column of boundary k. No state is kept at column 0, where a state is zero.
    """

    states: dict[nn.Module, dict[tuple[int, int], State]]
    columns: list[list[int]]


@torch.no_grad()
def _find(forward: LabelLogps, model: nn.Module, cache: Cache, device: torch.device) -> Iterator[tuple[nn.Module, int]]:
    """Give each module in whose forward a state of its layer's is first written; inner modules return first."""
    known: dict[int, set[tuple[str, int]]] = defaultdict(set)
    found: list[tuple[nn.Module, int]] = []

    def returned(module: Any, *_: Any) -> None:
        if module.layer_idx < len(cache.layers) and _is_recurrent(layer := cache.layers[module.layer_idx]):
            written = set(_read_states(layer, slice(None)))
            if written - known[module.layer_idx]:
                known[module.layer_idx] |= written
                found.append((module, module.layer_idx))

    numbered = [module for module in model.modules() if isinstance(getattr(module, "layer_idx", None), int)]
    hooks = [module.register_forward_hook(returned) for module in numbered]
    try:
        ids = torch.zeros(1, 2, dtype=torch.long)
        forward(upload(ids, device), torch.full_like(ids, IGNORED), past_key_values=cache)
    finally:
        for hook in hooks:
            hook.remove()
    return iter(found)


def _segments(cuts: Sequence[Sequence[int]], ends: Sequence[int]) -> list[Segment]:
    """Cut rows at their columns and their ends, rows whose segments coincide together."""
    found = []
    bounds = [[*own, end] if end > own[-1] else own for own, end in zip(cuts, ends, strict=True)]
    for number in range(max(map(len, bounds))):
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, own in enumerate(bounds):
            if number < len(own) and own[number] > 0:
                alike[own[number - 1] if number else 0, own[number]].append(row)
        found += [Segment(tuple(rows), start, end) for (start, end), rows in alike.items()]
    return found


def _grid(packed: PackedSuffixes) -> tuple[list[tuple[int, int]], Integer[Tensor, "N M"]]:
    """Find row and boundary of each suffix, and the flat number of each of its queries; a spare one where it ends."""
    n_rows, n_queries = packed.queries.shape
    width = n_queries + 1  # the forward has a spare column
    number: dict[tuple[int, int], int] = {}
    places = packed.is_query.nonzero().tolist()
    for row, query in places:
        number.setdefault((row, int(packed.suffix_of[row, query])), len(number))
    grid = torch.full((len(number), int(packed.step.max()) + 1), n_rows * width - 1)
    for row, query in places:
        grid[number[row, int(packed.suffix_of[row, query])], packed.step[row, query]] = row * width + query
    return [(row, suffix // packed.n_aliases) for row, suffix in number], grid


class _Calls:
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

    def advance(self, segment: Segment, states: Mapping[int, State]) -> dict[int, State]:
        """Run a segment from its rows' `states`, none at column 0, and give the states after it."""
        rows = list(segment.rows)
        contiguous = rows == list(range(rows[0], rows[-1] + 1))
        index = (slice(rows[0], rows[-1] + 1) if contiguous else rows, slice(segment.start, segment.end))
        found, layer = self._run(lambda x: x[index], [states[row] for row in rows if segment.start])
        self._joined(found)[index] = found
        return {row: _read_states(layer, slice(number, number + 1)) for number, row in enumerate(rows)}

    def suffixes(self, grid: Integer[Tensor, "N M"], start: Sequence[State]) -> Any:
        """Run each suffix as a row of its own from its state, zero where there is none; padded on the right."""
        blank = {name: torch.zeros_like(x) for name, x in next((state for state in start if state), {}).items()}
        found, _ = self._run(lambda x: x.flatten(0, 1)[grid], [state or blank for state in start if blank])
        self._joined(found).flatten(0, 1)[grid] = found
        return self.output

    def _joined(self, found: Tensor) -> Tensor:
        if self._hidden is None:
            self._hidden = found.new_zeros(*self._shape, *found.shape[2:])
        return self._hidden

    def _run(self, cut: Callable[[Tensor], Tensor], states: Sequence[State]) -> tuple[Tensor, Any]:
        """Call the module on what `cut` leaves of its tensors, and give its hidden states and its layer's states."""
        own = self._cache.layers[self._layer]
        layer = self._cache.layers[self._layer] = _layer_with(states, own)
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


def _is_recurrent(layer: Any) -> bool:
    return isinstance(layer, cache_utils.LinearAttentionCacheLayerMixin)


def _read_states(layer: Any, rows: slice) -> State:
    """Give the states of some rows that the layer has been written."""
    states = {"conv_states": layer.conv_states, "recurrent_states": layer.recurrent_states}
    return {(name, n): x[rows] for name, own in states.items() for n, x in own.items() if x is not None}


def _layer_with(states: Sequence[State], like: Any) -> Any:
    """Make a layer whose rows have these states; an empty one for none."""
    layer = cache_utils.LinearAttentionLayer(number_of_states=like.number_of_states)
    for name, number in states[0] if states else ():
        rows = torch.cat([state[name, number] for state in states])
        getattr(layer, name)[number] = rows
        getattr(layer, f"is_{name}_initialized")[number] = True
        layer.has_previous_state[number] = True
        layer.device, layer.dtype = rows.device, rows.dtype
        if name == "conv_states":
            layer.conv_kernel_size[number] = rows.shape[-1]
    return layer
