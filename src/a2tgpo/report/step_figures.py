"""Draw figures over steps: what the run logged, numbers of each generation batch, and where a step's time goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

from a2tgpo.report.logged_rollout import Rollout
from a2tgpo.report.run_data import RunData
from a2tgpo.report.series import Arm, Figure, Series

LOGGED: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("reward", "Reward", "Mean outcome reward of the batch.", {"reward": ""}),
    ("searches", "Tool calls per rollout", "Mean number of searches of a rollout.", {"rollout/searches": ""}),
    ("format", "Format rate", "Share of rollouts that kept the protocol to the end.", {"rollout/format_rate": ""}),
    (
        "likelihood",
        "p(gold answer)",
        "Mean probability of the gold answer given the question alone, and after the last result.",
        {"likelihood/after": "after results", "likelihood/before": "question alone"},
    ),
    ("entropy", "Entropy", "Mean entropy of the policy over its own tokens, in nats.", {"entropy": ""}),
    (
        "clipped",
        "Clipped share",
        "Share of policy tokens whose gradient a clip bound held back.",
        {"loss/clipped_high": "upper bound", "loss/clipped_low": "lower bound"},
    ),
    ("kl", "Distance from the sampling policy", "KL per token in nats, by the k3 estimate.", {"loss/approx_kl": ""}),
    ("grad_norm", "Gradient norm", "Before clipping by norm.", {"grad_norm": ""}),
)


def logged(arms: list[Arm], id: str, title: str, caption: str, metrics: dict[str, str]) -> Figure:
    """Draw metrics as the run logged them."""
    series = []
    for index, arm in enumerate(arms):
        for metric, label in metrics.items():
            curves = [
                {row["step"]: row[metric] for row in run.metrics if is_number(row.get(metric))} for run in arm.runs
            ]
            series += _over_seeds(index, label, curves)
    return Figure(id, title, caption, "steps", "step", series)


def per_batch(
    arms: list[Arm], id: str, title: str, caption: str, values: dict[str, Callable[[list[Rollout]], float]]
) -> Figure:
    """Draw a number of each generation batch, from its rollouts."""
    series = []
    for index, arm in enumerate(arms):
        for label, value in values.items():
            curves = [{batch.step: value(batch.rollouts) for batch in run.batches} for run in arm.runs]
            series += _over_seeds(index, label, curves)
    return Figure(id, title, caption, "steps", "step", series)


def _over_seeds(arm: int, label: str, curves: list[dict[int, float]]) -> list[Series]:
    """Draw the mean of several seeds, in a band from the lowest to the highest."""
    steps = sorted(set().union(*curves))
    if not steps:
        return []
    at = [[curve[step] for curve in curves if step in curve] for step in steps]
    mean: list[float | None] = [fmean(values) for values in at]
    if len(curves) == 1:
        return [Series(arm, label, steps, mean)]
    return [Series(arm, label, steps, mean, [min(values) for values in at], [max(values) for values in at])]


def is_number(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def envelope(arms: list[Arm]) -> Figure:
    """Draw the advantages of all turns of a batch: their mean, and where 90 % of them lie."""
    series = []
    for index, arm in enumerate(arms):
        pooled: dict[int, list[float]] = {}
        for run in arm.runs:
            for batch in run.batches:
                turns = [a for rollout in batch.rollouts if rollout.valid for a in rollout.advantage]
                pooled.setdefault(batch.step, []).extend(turns)
        steps = sorted(step for step, turns in pooled.items() if turns)
        if steps:
            at = [sorted(pooled[step]) for step in steps]
            series.append(
                Series(
                    index,
                    "",
                    steps,
                    [fmean(turns) for turns in at],
                    [turns[round(0.05 * (len(turns) - 1))] for turns in at],
                    [turns[round(0.95 * (len(turns) - 1))] for turns in at],
                )
            )
    caption = "Advantage of every turn of the batch: mean, and a band that holds 90 % of the turns."
    return Figure("advantage", "Advantage envelope", caption, "steps", "step", series)


_PARTS = {
    "generation": "generation",
    "old_logps": "old log-probabilities",
    "gain": "gain",
    "update": "update",
    "optimizer": "optimizer",
}


def step_time(arms: list[Arm]) -> Figure:
    """Draw the mean seconds of an optimizer step, by part."""
    series = []
    for index, arm in enumerate(arms):
        seconds = dict.fromkeys([*_PARTS.values(), "rest"], 0.0)
        steps = sum(_add_seconds(run, seconds) for run in arm.runs)
        if steps:
            series.append(Series(index, "", [*seconds], [total / steps for total in seconds.values()]))
    caption = (
        "Mean seconds of an optimizer step. Gain is what the answer likelihoods add to the pass that computes the old "
        "log-probabilities; with one update a batch to generation, or a pass of their own."
    )
    return Figure("step_time", "Where a step's time goes", caption, "parts", "part", series)


def _add_seconds(run: RunData, seconds: dict[str, float]) -> int:
    """Add the run's seconds by part; return its number of steps. Parts are sums since the last log, `step_time` is the
    mean of the steps since then and leaves the optimizer out."""
    last = 0
    for row in (row for row in run.metrics if is_number(row.get("step_time"))):
        steps, last = row["step"] - last, row["step"]
        parts = {label: row.get(f"seconds/{part}", 0.0) for part, label in _PARTS.items()}
        for label, spent in parts.items():
            seconds[label] += spent
        seconds["rest"] += max(0.0, row["step_time"] * steps + parts["optimizer"] - sum(parts.values()))
    return last
