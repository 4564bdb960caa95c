"""Keep what has a state of fixed size (linear attention, state-space models, convolutions) for the rows of a KV cache.

A state cannot be masked as a key can: what has run over it stays in it. So no column of padding, and no token that may
be dropped, reaches these modules: they run each row's own tokens, rows with equally many of them together, from the
state that the row's slot holds. Everything else in the model sees the padded forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel

from a2tgpo.rollout.slot_layout import Chunk, roomy
from a2tgpo.signals.answer_likelihood.forward import plain_forward
from a2tgpo.signals.answer_likelihood.model_support import layers_of
from a2tgpo.signals.answer_likelihood.piecewise_call import PiecewiseCall, Segment, State
from a2tgpo.signals.answer_likelihood.recurrent import RecurrentModules

if TYPE_CHECKING:
    from transformers import Cache


class SlotStates:
    """Hold the states of a model's recurrent modules, each tensor [slots, ...]."""

    def __init__(self, modules: RecurrentModules) -> None:
        self._modules = modules
        self._stores: dict[nn.Module, State] = defaultdict(dict)

    @classmethod
    def of(cls, model: PreTrainedModel) -> SlotStates | None:
        """Find the modules; None in a model that has none.

        Raises:
            ValueError: a layer keeps its state elsewhere than in the cache.
        """
        if not any(layer.recurrent for layer in layers_of(model.config)):
            return None
        return cls(RecurrentModules.of(plain_forward(model), model.config, model.device))

    @contextmanager
    def advancing(self, cache: Cache, chunk: Chunk) -> Iterator[None]:
        """Run the modules of a forward over `chunk`, each row from its slot's state, which it moves on."""
        # Located once for all modules: on a GPU each list of slots is a copy to it.
        segments = [(segment, begins, chunk.slots[list(segment.rows)]) for segment, begins in _segments(chunk)]

        def run(module: nn.Module, layer: int, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
            calls, store = PiecewiseCall(call, cache, layer, args, kwargs), self._stores[module]
            for segment, begins, slots in segments:
                before = {} if begins else {name: x[slots] for name, x in store.items()}
                for name, x in calls.advance(segment, before).items():
                    store[name] = roomy(store.get(name, x[:0]), chunk.n_slots)
                    store[name][slots] = x
            return calls.output

        with self._modules.run_by(run):
            yield

    def copy(self, source: int, target: int) -> None:
        """Give slot `target` the states of slot `source`."""
        for store in self._stores.values():
            for name, x in store.items():
                store[name] = roomy(x, target + 1)
                store[name][target] = x[source]


def _segments(chunk: Chunk) -> list[tuple[Segment, bool]]:
    """Group the rows with equally many tokens, those that begin apart from those that go on; tell which begin."""
    alike: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for row, (n_tokens, n_stored) in enumerate(zip(chunk.n_tokens, chunk.n_stored, strict=True)):
        alike[n_tokens, n_stored == 0].append(row)
    width = chunk.input_ids.size(1)
    return [(Segment(tuple(rows), width - n_tokens, width), begins) for (n_tokens, begins), rows in alike.items()]
