"""Score the answer at every turn boundary on the KV cache that a rollout was written with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.rollout.rows import Row
from a2tgpo.rollout.slot_cache import SlotCache
from a2tgpo.rollout.slot_layout import Aside
from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.forward import LabelLogps
from a2tgpo.signals.answer_likelihood.kv_cache import cached_answer_logps
from a2tgpo.signals.answer_likelihood.model_support import Layer
from a2tgpo.signals.answer_likelihood.scaffold import AnswerSuffix, SuffixBatch
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

TOKENS_AT_ONCE = 8192
"""Padded tokens of answer suffixes in one forward."""


@dataclass
class AnswerReader:
    """Score answers while the KV cache of a rollout is still there: no pass over its tokens is needed for them.

    It finds what `AnswerScorer` would find with the weights that wrote the rollouts. A model with states of fixed size
    has none left of its boundaries then, and is not read so.

    Args:
        forward: of the model that generates, under the temperature of the loss.
        suffixes: the aliases of each row as answer suffixes, by row number.
        inside: the same for rows whose prompt has opened the thought; None where no prompt does.
        opens: tells which rows these are by their prompt's tokens.
        additive_mask, layers: see `cached_answer_logps`.

    Attributes:
        answer_logps: by row number, the mean log-probability of the likeliest alias' tokens after the prompt and after
            each observation.
        seconds: wall-clock seconds of its forwards.
    """

    forward: LabelLogps
    suffixes: Sequence[Sequence[AnswerSuffix]]
    inside: Sequence[Sequence[AnswerSuffix]] | None = None
    opens: Callable[[Sequence[int]], bool] = field(default=lambda prompt: False)
    additive_mask: bool = False
    layers: Sequence[Layer] = ()
    answer_logps: dict[int, list[float]] = field(default_factory=dict, init=False)
    seconds: float = field(default=0.0, init=False)

    def __call__(self, rows: Sequence[Row], slots: Sequence[int], cache: SlotCache, device: torch.device) -> None:
        """Read the answers of `rows`, which live in `slots` of `cache`."""
        start = time.perf_counter()
        per_row = max(len(row.turn_starts) * sum(len(suffix.ids) for suffix in self._of(row)) for row in rows)
        at_once = max(1, TOKENS_AT_ONCE // per_row)
        for first in range(0, len(rows), at_once):
            self._read(rows[first : first + at_once], slots[first : first + at_once], cache, device)
        self.seconds += time.perf_counter() - start

    def _of(self, row: Row) -> Sequence[AnswerSuffix]:
        if self.inside is not None and self.opens(row.context[: row.turn_starts[0]]):
            return self.inside[row.number]
        return self.suffixes[row.number]

    def _read(self, rows: Sequence[Row], slots: Sequence[int], cache: SlotCache, device: torch.device) -> None:
        boundaries = _boundaries(rows)
        trajectories = _prefixes(rows)
        suffixes = SuffixBatch.stack([self._of(row) for row in rows])
        with cache.running(Aside(torch.tensor(slots).to(device), trajectories.input_ids.size(1))):
            logps = cached_answer_logps(
                self.forward,
                trajectories,
                boundaries,
                suffixes,
                device,
                cache,
                layers=self.layers,
                additive_mask=self.additive_mask,
            )
        for row, found in zip(rows, logps.amax(-1).tolist(), strict=True):
            self.answer_logps[row.number] = found[: len(row.turn_starts)]


def _boundaries(rows: Sequence[Row]) -> Boundaries:
    exists = pad_sequence([torch.ones(len(row.turn_starts), dtype=torch.bool) for row in rows], batch_first=True)
    # A boundary that does not exist repeats the end of the prompt.
    columns = pad_sequence([torch.tensor(row.turn_starts) for row in rows], batch_first=True)
    first = torch.tensor([row.turn_starts[0] for row in rows])[:, None]
    return Boundaries(torch.where(exists, columns, first), exists, exists[:, 1:], exists.sum(1))


def _prefixes(rows: Sequence[Row]) -> Trajectories:
    """Each row up to its last boundary; all of these tokens have their keys."""
    ids = [torch.tensor(row.context[: row.turn_starts[-1]]) for row in rows]
    attended = pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in ids], batch_first=True)
    input_ids = pad_sequence(ids, batch_first=True)
    positions = torch.arange(input_ids.size(1)).expand_as(input_ids)
    return Trajectories(input_ids, attended, torch.full_like(input_ids, IGNORED), positions, attended.sum(1))
