"""The forwards of one scoring batch: every micro-batch's trajectories and then their probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from a2tgpo.signals.answer_likelihood.batch import ProbeBatch, Trajectories
from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.cached import cached_answer_logps, trajectory_logps
from a2tgpo.signals.answer_likelihood.device import Stopwatch, upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps
from a2tgpo.signals.answer_likelihood.micro_batches import cut_by_tokens
from a2tgpo.signals.answer_likelihood.rows import row_answer_logps
from a2tgpo.signals.answer_likelihood.support import needs_additive_mask

if TYPE_CHECKING:
    from jaxtyping import Float
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Reading:
    """What the forwards found, and their seconds: of the trajectories, and of the answers alone."""

    trajectory_logps: Float[Tensor, "B S"]
    answer_logps: Float[Tensor, "B K A"]
    seconds_logps: float
    seconds_gain: float


@torch.no_grad()
def policy_logps(
    forward: LabelLogps, trajectories: Trajectories, device: torch.device, *, tokens_per_batch: int | None
) -> Float[Tensor, "B S"]:
    """log π of each token the policy wrote, 0 elsewhere, in forwards of at most `tokens_per_batch` tokens."""
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
    probes: ProbeBatch,
    device: torch.device,
    *,
    cache_config: PreTrainedConfig | None,
    old_logps: bool,
    tokens_per_batch: int | None,
) -> Reading:
    """Run all forwards on `device`, each within `tokens_per_batch` tokens; the batch itself lies on the CPU.

    With `cache_config`, the model's configuration, probes read the cached keys of their trajectory; with None they
    run as separate rows, and then the trajectories themselves only for `old_logps`. The host waits for the device only
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
            forward, trajectories, boundaries, probes, device, tokens_per_batch=tokens_per_batch
        )
        watch.lap("gain")
        return Reading(logps, answer_logps, watch.seconds("logps"), watch.seconds("gain"))
    answer_logps = torch.zeros(batch, n_boundaries, probes.ids.shape[1], device=device)
    n_probe_tokens = boundaries.exists.sum(1) * probes.n_tokens
    for part in cut_by_tokens(trajectories.extents(n_probe_tokens), tokens_per_batch, device):
        rows, rollouts = upload(torch.tensor(part.rows), device), trajectories.take(part)
        cache = DynamicCache(config=cache_config)
        logps[rows, part.columns] = trajectory_logps(forward, rollouts, device, cache)
        watch.lap("logps")
        answer_logps[rows] = cached_answer_logps(
            forward,
            rollouts,
            boundaries.take(part.rows, part.columns.start),
            probes.take(part.rows),
            device,
            cache,
            additive_mask=needs_additive_mask(cache_config),
        )
        watch.lap("gain")
    return Reading(logps, answer_logps, watch.seconds("logps"), watch.seconds("gain"))
