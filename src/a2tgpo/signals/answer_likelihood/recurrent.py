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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps, model_of
from a2tgpo.signals.answer_likelihood.model_support import full_key_cache, layers_of
from a2tgpo.signals.answer_likelihood.packed_suffixes import PackedSuffixes
from a2tgpo.signals.answer_likelihood.piecewise_call import (
    PiecewiseCall,
    Segment,
    State,
    is_recurrent,
    joined,
    read_states,
)
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Integer
    from transformers import Cache, PreTrainedConfig


RunModule = Callable[[nn.Module, int, Callable[..., Any], Any, Any], Any]
"""Run a module in place of its own forward: given the module, the number of its layer, that forward, and the
arguments."""


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
            calls = PiecewiseCall(call, cache, layer, args, kwargs)
            states: dict[int, State] = {}
            for segment in segments:
                before = joined([states[row] for row in segment.rows if segment.start])
                after = calls.advance(segment, before)
                for number, row in enumerate(segment.rows):
                    states[row] = {name: x[number : number + 1] for name, x in after.items()}
                    kept.states[module][row, segment.end] = states[row]
            return calls.output

        with self.run_by(run):
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
            return PiecewiseCall(call, cache, layer, args, kwargs).suffixes(grid, start)

        with self.run_by(run):
            yield

    @contextmanager
    def run_by(self, run: RunModule) -> Iterator[None]:
        """Let `run` run the modules inside the block."""

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
        if module.layer_idx < len(cache.layers) and is_recurrent(layer := cache.layers[module.layer_idx]):
            written = set(read_states(layer))
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
