"""Answer likelihood the plain way: one row of tokens for every rollout, boundary and alias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from a2tgpo.signals.answer_likelihood.batch import IGNORED, ProbeBatch, Trajectories
from a2tgpo.signals.answer_likelihood.boundaries import Boundaries
from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.forward import LabelLogps
from a2tgpo.signals.answer_likelihood.micro_batches import Extent, cut_by_tokens

if TYPE_CHECKING:
    from jaxtyping import Float


@torch.no_grad()
def row_answer_logps(
    forward: LabelLogps,
    trajectories: Trajectories,
    boundaries: Boundaries,
    probes: ProbeBatch,
    device: torch.device,
    *,
    tokens_per_batch: int | None,
) -> Float[Tensor, "B K A"]:
    """Mean log-probability of each alias's answer tokens after each boundary's prefix, K = T + 1.

    (1/n) Σ_j log π(a_j | prefix, scaffold, a_<j), the exponent of A²TGPO's answer likelihood. The reference:
    it works on every causal model and costs a full forward per row. Rows are right-padded, similar lengths
    together, and run within `tokens_per_batch` on `device`; the other arguments lie on the CPU. −inf where the
    boundary or the alias is missing.

    Under torch.distributed, call it in every process: sharded models need equally many forwards in each.
    """
    readings = boundaries.exists[:, :, None] & probes.is_token.any(-1)[:, None]
    where = readings.nonzero()
    input_ids, labels = [], []
    for rollout, boundary, alias in where.tolist():
        end = boundaries.columns[rollout, boundary]
        prefix = trajectories.input_ids[rollout, :end][trajectories.attention_mask[rollout, :end]]
        tokens = probes.is_token[rollout, alias]
        input_ids.append(torch.cat([prefix, probes.ids[rollout, alias][tokens]]))
        labels.append(torch.cat([torch.full_like(prefix, IGNORED), probes.labels[rollout, alias][tokens]]))

    totals = torch.full(readings.shape, -torch.inf, device=device)
    for batch in cut_by_tokens([Extent(0, len(row)) for row in input_ids], tokens_per_batch, device):
        attention_mask = pad_sequence([torch.ones_like(input_ids[row]) for row in batch.rows], batch_first=True)
        logps = forward(
            upload(pad_sequence([input_ids[row] for row in batch.rows], batch_first=True), device),
            pad_sequence([labels[row] for row in batch.rows], batch_first=True, padding_value=IGNORED),
            attention_mask=upload(attention_mask, device),
        )
        totals[tuple(upload(where[list(batch.rows)].T, device))] = logps.sum(1)
    return probes.mean(totals)
