"""Log numbers of every batch: credit by depth, and the course of the rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from a2tgpo.pipeline.collective import Collective
from a2tgpo.pipeline.credit import BatchCredit
from a2tgpo.rollout.types import Rollout, Termination

_ENDINGS: list[Termination] = [ending for ending in Termination if ending is not Termination.MODEL_FAILED]
"""Only a server fails while it generates, and only evaluations ask one."""


def credit_metrics(credit: BatchCredit) -> dict[str, float]:
    """Average over the valid rollouts of the joined batch, depth k counted from 1; gains where the method reads them.

    `gain/turn_k`, `gain_normalized/turn_k`, `advantage/turn_k`: over rollouts that have turn k (a process turn for the
    gains). `gain_std/turn_k`: spread before normalisation. `clip_scale/mean`, `clip_scale/std`: over process turns.
    `rollout/turns`: policy turns per rollout. `likelihood/before`, `likelihood/after`: of the gold answer given the
    question alone, and at the last boundary. What nothing in the batch has is left out.
    """
    depth = torch.arange(credit.is_process.size(1), device=credit.outcome.device)
    process = credit.is_process & credit.valid[:, None]
    written = (depth < credit.n_turns[:, None]) & credit.valid[:, None]
    last = credit.is_process.sum(dim=1)
    metrics = {"rollout/invalid": (~credit.valid).float().mean().item()}
    if credit.valid.any():
        metrics["rollout/turns"] = _mean(credit.n_turns.float(), credit.valid)
        if credit.likelihood is not None:
            metrics["likelihood/before"] = _mean(credit.likelihood[:, 0], credit.valid)
            metrics["likelihood/after"] = _mean(credit.likelihood.gather(1, last[:, None])[:, 0], credit.valid)
    if process.any():
        metrics["clip_scale/mean"] = _mean(credit.clip_scale, process)
        metrics["clip_scale/std"] = _std(credit.clip_scale, process)
    for turn in range(credit.is_process.size(1)):
        name = f"turn_{turn + 1}"
        if written[:, turn].any():
            metrics[f"advantage/{name}"] = _mean(credit.advantage[:, turn], written[:, turn])
        if credit.gain is not None and process[:, turn].any():
            metrics[f"gain/{name}"] = _mean(credit.gain[:, turn], process[:, turn])
            metrics[f"gain_std/{name}"] = _std(credit.gain[:, turn], process[:, turn])
            metrics[f"gain_normalized/{name}"] = _mean(credit.normalized_gain[:, turn], process[:, turn])
    return metrics


def rollout_metrics(records: Sequence[Rollout | None], credit: BatchCredit, collective: Collective) -> dict[str, float]:
    """Count searches per rollout, the format rate and the share of each ending, over all processes.

    Only our agent loop types its endings; for another loop a search is a process turn, and the engine counts the rest.
    """
    metrics = {"rollout/searches": credit.is_process.sum(dim=1).float().mean().item()}
    known = [record for record in records if record is not None]
    if not known:
        return metrics
    counts = torch.zeros(1, len(_ENDINGS) + 1, device=credit.outcome.device)
    for record in known:
        assert record.termination is not None, "a rollout was handed over before it ended"
        counts[0, _ENDINGS.index(record.termination)] += 1
        counts[0, -1] += len(record.calls)
    *endings, calls = collective.gather(counts).sum(dim=0).tolist()
    total = sum(endings)
    metrics |= {f"rollout/{ending.value}": n / total for ending, n in zip(_ENDINGS, endings, strict=True)}
    metrics["rollout/format_rate"] = metrics[f"rollout/{Termination.ANSWERED.value}"]
    metrics["rollout/searches"] = calls / total
    return metrics


def _mean(values: Tensor, where: Tensor) -> float:
    return values[where].mean().item()


def _std(values: Tensor, where: Tensor) -> float:
    return values[where].std(correction=0).item()
