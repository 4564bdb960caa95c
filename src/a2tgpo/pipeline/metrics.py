"""What is logged of every batch: credit by depth, and how the rollouts went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from a2tgpo.pipeline.credit import BatchCredit
from a2tgpo.rollout.types import Rollout, Termination

if TYPE_CHECKING:
    from accelerate import Accelerator


def credit_metrics(credit: BatchCredit) -> dict[str, float]:
    """Means over the valid rollouts of the global batch, depth k counted from 1; gains where the method reads them.

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


def rollout_metrics(accelerator: Accelerator, inputs: list[dict[str, Any]], credit: BatchCredit) -> dict[str, float]:
    """Searches per rollout, format rate and the share of each ending, over all processes.

    Only `TagRollout` types its endings; for TRL's own tool loop a search is a process turn and TRL counts the rest.
    """
    metrics = {"rollout/searches": credit.is_process.sum(dim=1).float().mean().item()}
    rollouts: list[Rollout] = [row["rollout"] for row in inputs if isinstance(row.get("rollout"), Rollout)]
    if not rollouts:
        return metrics
    # Only a server fails while it generates, and only evaluations ask one.
    endings: list[Termination] = [ending for ending in Termination if ending is not Termination.MODEL_FAILED]
    counts = torch.zeros(len(endings) + 1, device=accelerator.device)
    for rollout in rollouts:
        assert rollout.termination is not None
        counts[endings.index(rollout.termination)] += 1
        counts[-1] += len(rollout.calls)
    counts = accelerator.reduce(counts, reduction="sum")
    total = counts[:-1].sum()
    shares = (counts[:-1] / total).tolist()
    metrics |= {f"rollout/{ending.value}": share for ending, share in zip(endings, shares, strict=True)}
    metrics["rollout/format_rate"] = metrics[f"rollout/{Termination.ANSWERED.value}"]
    metrics["rollout/searches"] = (counts[-1] / total).item()
    return metrics


def _mean(values: Tensor, where: Tensor) -> float:
    return values[where].mean().item()


def _std(values: Tensor, where: Tensor) -> float:
    return values[where].std(correction=0).item()
