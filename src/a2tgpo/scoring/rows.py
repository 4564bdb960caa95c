"""Answer likelihood the plain way: one row of tokens for every rollout, boundary and alias."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.scoring.batch import IGNORED, ProbeBatch, Trajectories
from a2tgpo.scoring.boundaries import Boundaries
from a2tgpo.scoring.forward import LabelLogps

if TYPE_CHECKING:
    from jaxtyping import Float


@torch.no_grad()
def row_answer_logps(
    forward: LabelLogps,
    trajectories: Trajectories,
    boundaries: Boundaries,
    probes: ProbeBatch,
    *,
    rows_per_batch: int,
) -> Float[Tensor, "B K A"]:
    """Mean log-probability of each alias's answer tokens after each boundary's prefix, K = T + 1.

    (1/n) Σ_j log π(a_j | prefix, scaffold, a_<j), the exponent of A²TGPO's answer likelihood. The reference:
    it works on every causal model and costs a full forward per row. Rows are right-padded and run
    `rows_per_batch` at a time, similar lengths together. −inf where the boundary or the alias is missing.

    Under torch.distributed, call it in every process: sharded models need equally many forwards in each.
    """
    readings = boundaries.exists[:, :, None] & probes.is_token.any(-1)[:, None]
    totals = torch.full(readings.shape, -torch.inf, device=readings.device)
    rows = []
    for rollout, boundary, alias in readings.nonzero().tolist():
        end = boundaries.columns[rollout, boundary]
        prefix = trajectories.input_ids[rollout, :end][trajectories.attention_mask[rollout, :end]]
        tokens = probes.is_token[rollout, alias]
        input_ids = torch.cat([prefix, probes.ids[rollout, alias][tokens]])
        labels = torch.cat([torch.full_like(prefix, IGNORED), probes.labels[rollout, alias][tokens]])
        rows.append((input_ids, labels, (rollout, boundary, alias)))
    rows.sort(key=lambda row: len(row[0]))

    n_forwards = _most_of_all_processes(math.ceil(len(rows) / rows_per_batch), readings.device)
    for start in range(0, n_forwards * rows_per_batch, rows_per_batch):
        # A process with fewer rows than another reads its shortest row again.
        input_ids, labels, where = zip(*(rows[start : start + rows_per_batch] or rows[:1]), strict=True)
        attention_mask = pad_sequence([torch.ones_like(row) for row in input_ids], batch_first=True)
        logps = forward(
            pad_sequence(list(input_ids), batch_first=True),
            pad_sequence(list(labels), batch_first=True, padding_value=IGNORED),
            attention_mask=attention_mask,
        )
        totals[tuple(torch.tensor(where).T)] = logps.sum(1)
    return probes.mean(totals)


def _most_of_all_processes(count: int, device: torch.device) -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return count
    most = torch.tensor(count, device=device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most)
