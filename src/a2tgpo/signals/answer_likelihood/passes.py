"""Run the forwards of one scoring batch: trajectories, and the answers from their KV cache or as rows of their own."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import Stopwatch, upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps, model_of
from a2tgpo.signals.answer_likelihood.kv_cache import cached_answer_logps, trajectory_logps
from a2tgpo.signals.answer_likelihood.model_support import (
    Layer,
    attending_by,
    full_key_cache,
    layers_of,
    suffix_attention,
)
from a2tgpo.signals.answer_likelihood.packed_suffixes import PackedSuffixes
from a2tgpo.signals.answer_likelihood.recurrent import KeptStates, RecurrentModules
from a2tgpo.signals.answer_likelihood.scaffold import SuffixBatch
from a2tgpo.signals.answer_likelihood.token_budget import Extent, cut_by_tokens
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED, Trajectories

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Reading:
    """Hold what the forwards found, and their seconds: of the trajectories, and of the answers alone."""

    trajectory_logps: Float[Tensor, "B S"]
    answer_logps: Float[Tensor, "B K A"]
    seconds_logps: float
    seconds_gain: float


@torch.no_grad()
def policy_logps(
    forward: LabelLogps, trajectories: Trajectories, device: torch.device, *, tokens_per_batch: int | None
) -> Float[Tensor, "B S"]:
    """Read log π of each token the policy wrote, 0 elsewhere, in forwards of at most `tokens_per_batch` tokens."""
    logps = torch.zeros(trajectories.input_ids.shape, device=device)
    nothing_more = torch.zeros(len(logps), dtype=torch.long)
    for part in cut_by_tokens(trajectories.extents(nothing_more), tokens_per_batch, device):
        rows = upload(torch.tensor(part.rows), device)
        logps[rows, part.columns] = trajectory_logps(forward, trajectories.take(part), device)
    return logps


@torch.no_grad()
def read_logps(
    forward: LabelLogps,
    trajectories: Trajectories,
    boundaries: Boundaries,
    suffixes: SuffixBatch,
    device: torch.device,
    *,
    cache_config: PreTrainedConfig | None,
    old_logps: bool,
    tokens_per_batch: int | None,
) -> Reading:
    """Run all forwards on `device`, each within `tokens_per_batch` tokens; the batch itself lies on the CPU.

    With `cache_config`, the model's configuration, suffixes read the KV cache of their trajectory; with None they run
    as separate rows, and then the trajectories themselves only for `old_logps`. The host waits for the device only
    where the model does.

    Under torch.distributed every process runs equally many forwards.
    """
    batch, n_boundaries = boundaries.exists.shape
    logps = torch.zeros(trajectories.input_ids.shape, device=device)
    watch = Stopwatch(device)
    if cache_config is None:
        if old_logps:
            logps = policy_logps(forward, trajectories, device, tokens_per_batch=tokens_per_batch)
            watch.lap("logps")
        answer_logps = row_answer_logps(
            forward, trajectories, boundaries, suffixes, device, tokens_per_batch=tokens_per_batch
        )
        watch.lap("gain")
        return Reading(logps, answer_logps, watch.seconds("logps"), watch.seconds("gain"))
    answer_logps = torch.zeros(batch, n_boundaries, suffixes.ids.shape[1], device=device)
    n_suffix_tokens = boundaries.exists.sum(1) * suffixes.n_tokens
    reader = _CachedReader.of(forward, cache_config, device)
    for part in cut_by_tokens(trajectories.extents(n_suffix_tokens), tokens_per_batch, device):
        rows = upload(torch.tensor(part.rows), device)
        own = boundaries.take(part.rows, part.columns.start)
        found = reader.read(trajectories.take(part), own, suffixes.take(part.rows), watch)
        logps[rows, part.columns], answer_logps[rows] = found
    return Reading(logps, answer_logps, watch.seconds("logps"), watch.seconds("gain"))


@dataclass(frozen=True)
class _CachedReader:
    """Read a micro-batch: its trajectories, and its answers from what they leave in a cache."""

    forward: LabelLogps
    config: PreTrainedConfig
    device: torch.device
    layers: list[Layer]
    recurrent: RecurrentModules | None

    @classmethod
    def of(cls, forward: LabelLogps, config: PreTrainedConfig, device: torch.device) -> _CachedReader:
        layers = layers_of(config)
        recurrent = any(layer.recurrent for layer in layers)
        found = RecurrentModules.of(forward, config, device) if recurrent else None
        return cls(forward, config, device, layers, found)

    def read(
        self, trajectories: Trajectories, boundaries: Boundaries, suffixes: SuffixBatch, watch: Stopwatch
    ) -> tuple[Float[Tensor, "b s"], Float[Tensor, "b K A"]]:
        """Give log π of what the policy wrote and the answers' mean log-probabilities."""
        cache = full_key_cache(self.config)
        kept: KeptStates | None = None
        with ExitStack() as stack:
            if self.recurrent is not None:
                kept = stack.enter_context(self.recurrent.keeping(cache, boundaries, trajectories.ends))
            logps = trajectory_logps(self.forward, trajectories, self.device, cache)
        watch.lap("logps")

        def within(packed: PackedSuffixes) -> AbstractContextManager[Any]:
            if self.recurrent is None or kept is None:
                return nullcontext()
            return self.recurrent.continuing(cache, kept, packed, self.device)

        attention = suffix_attention(self.config, model_of(self.forward))
        with attending_by(self.config, attention):
            answer_logps = cached_answer_logps(
                self.forward,
                trajectories,
                boundaries,
                suffixes,
                self.device,
                cache,
                layers=self.layers,
                additive_mask=attention == "eager",
                within=within,
            )
        watch.lap("gain")
        return logps, answer_logps


@torch.no_grad()
def row_answer_logps(
    forward: LabelLogps,
    trajectories: Trajectories,
    boundaries: Boundaries,
    suffixes: SuffixBatch,
    device: torch.device,
    *,
    tokens_per_batch: int | None,
) -> Float[Tensor, "B K A"]:
    """Read the mean log-probability of each alias's answer tokens after each boundary's prefix, K = T + 1.

    (1/n) Σ_j log π(a_j | prefix, scaffold, a_<j), the exponent of A²TGPO's answer likelihood. The reference:
    it works on every causal model and costs a full forward per row. Rows are right-padded, similar lengths
    together, and run within `tokens_per_batch` on `device`; the other arguments lie on the CPU. −inf where the
    boundary or the alias is missing.

    Under torch.distributed, call it in every process: sharded models need equally many forwards in each.
    """
    readings = boundaries.exists[:, :, None] & suffixes.is_token.any(-1)[:, None]
    where = readings.nonzero()
    input_ids, labels = [], []
    for rollout, boundary, alias in where.tolist():
        end = boundaries.columns[rollout, boundary]
        prefix = trajectories.input_ids[rollout, :end][trajectories.attention_mask[rollout, :end]]
        tokens = suffixes.is_token[rollout, alias]
        input_ids.append(torch.cat([prefix, suffixes.ids[rollout, alias][tokens]]))
        labels.append(torch.cat([torch.full_like(prefix, IGNORED), suffixes.labels[rollout, alias][tokens]]))

    totals = torch.full(readings.shape, -torch.inf, device=device)
    for batch in cut_by_tokens([Extent(0, len(row)) for row in input_ids], tokens_per_batch, device):
        attention_mask = pad_sequence([torch.ones_like(input_ids[row]) for row in batch.rows], batch_first=True)
        logps = forward(
            upload(pad_sequence([input_ids[row] for row in batch.rows], batch_first=True), device),
            pad_sequence([labels[row] for row in batch.rows], batch_first=True, padding_value=IGNORED),
            attention_mask=upload(attention_mask, device),
        )
        totals[tuple(upload(where[list(batch.rows)].T, device))] = logps.sum(1)
    return suffixes.mean(totals)
