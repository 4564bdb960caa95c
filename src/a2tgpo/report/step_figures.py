"""Draw figures over steps: what the run logged, numbers of each generation batch, and where a step's time goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any

from a2tgpo.report.logged_rollout import Batch, Rollout, finite
from a2tgpo.report.run_data import RunData
from a2tgpo.report.series import Arm, Figure, Series

LOGGED: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
    (
        "format",
        "Format rate",
        "Share of rollouts that kept the protocol to the end.",
        "share of rollouts",
        {"rollout/format_rate": ""},
    ),
    (
        "likelihood",
        "p(gold answer)",
        "Mean probability of the gold answer given the question alone, and after the last result.",
        "probability",
        {"likelihood/after": "after results", "likelihood/before": "question alone"},
    ),
    ("entropy", "Entropy", "Mean entropy of the policy over its own tokens.", "nats", {"entropy": ""}),
    (
        "clipped",
        "Clipped share",
        "Share of policy tokens whose gradient a clip bound held back.",
        "share of tokens",
        {"loss/clipped_high": "upper bound", "loss/clipped_low": "lower bound"},
    ),
    ("kl", "Distance from the sampling policy", "KL per token, by the k3 estimate.", "nats", {"loss/approx_kl": ""}),
    ("grad_norm", "Gradient norm", "Before clipping by norm.", "norm", {"grad_norm": ""}),
)
"""Figure, title, caption, unit, metrics with their labels."""

MOST_POINTS = 2000
"""Points of a curve of any metric; neighbours of a longer log are averaged."""

Value = Callable[[Rollout], float | None]


def logged(arms: list[Arm], id: str, title: str, caption: str, unit: str, metrics: dict[str, str]) -> Figure:
    """Draw metrics as the run logged them."""
    series = []
    for index, arm in enumerate(arms):
        for metric, label in metrics.items():
            series += _over_seeds(index, label, [_logged(run, metric) for run in arm.runs])
    return Figure(id, title, caption, "steps", "step", unit, series)


def _logged(run: RunData, metric: str) -> dict[int, float]:
    return {row["step"]: row[metric] for row in run.metrics if is_number(row.get(metric))}


def every_metric(arms: list[Arm]) -> dict[str, list[Series]]:
    """Return a curve per arm of every number that any run logged, by name."""
    names = {name for arm in arms for run in arm.runs for row in run.metrics for name in row if name != "step"}
    curves = {}
    for name in sorted(names):
        lines = [
            line for i, arm in enumerate(arms) for line in _over_seeds(i, "", [_logged(r, name) for r in arm.runs])
        ]
        if lines:
            curves[name] = [_thinned(line) for line in lines]
    return curves


def _thinned(line: Series) -> Series:
    size = -(-len(line.x) // MOST_POINTS)
    if size == 1:
        return line
    starts = range(0, len(line.x), size)

    def means(values: list[float | None] | None) -> list[float | None] | None:
        return None if values is None else [fmean(finite(values[s : s + size])) for s in starts]

    y = means(line.y)
    assert y is not None
    return Series(line.arm, line.label, [line.x[s] for s in starts], y, means(line.low), means(line.high))


def rewards(arms: list[Arm]) -> Figure:
    """Draw the outcome reward of the rollouts themselves; of a run without rollouts, as it was logged."""
    series = []
    for index, arm in enumerate(arms):
        drawn = [_means(run.batches, lambda rollout: rollout.reward) or _logged(run, "reward") for run in arm.runs]
        series += _over_seeds(index, "", drawn)
    return Figure("reward", "Reward", "Mean outcome reward of the batch's rollouts.", "steps", "step", "reward", series)


def per_batch(arms: list[Arm], id: str, title: str, caption: str, unit: str, value: Value) -> Figure:
    """Draw the mean over the rollouts of each generation batch; rollouts without the number are left out."""
    series = []
    for index, arm in enumerate(arms):
        series += _over_seeds(index, "", [_means(run.batches, value) for run in arm.runs])
    return Figure(id, title, caption, "steps", "step", unit, series)


def _means(batches: list[Batch], value: Value) -> dict[int, float]:
    at = {batch.step: finite(map(value, batch.rollouts)) for batch in batches}
    return {step: fmean(values) for step, values in at.items() if values}


def by_hops(arms: list[Arm], id: str, title: str, caption: str, unit: str, value: Value) -> Figure:
    """Draw the mean over each batch's rollouts by the hops of their question: whether training keeps depth."""
    series = []
    for index, arm in enumerate(arms):
        rollouts = (rollout for run in arm.runs for batch in run.batches for rollout in batch.rollouts)
        for hops in sorted({rollout.hops for rollout in rollouts if rollout.hops is not None}):
            curves = [_means(_of_hops(run.batches, hops), value) for run in arm.runs]
            series += _over_seeds(index, f"{hops} hop{'s' * (hops != 1)}", curves)
    return Figure(id, title, caption, "steps", "step", unit, series)


def _of_hops(batches: list[Batch], hops: int) -> list[Batch]:
    return [Batch(batch.step, [rollout for rollout in batch.rollouts if rollout.hops == hops]) for batch in batches]


def lengths(arms: list[Arm]) -> Figure:
    """Draw tokens per rollout of each batch: mean, shortest and longest (the paper's figure 8)."""
    of: dict[str, Value] = {"policy": lambda r: r.n_policy_tokens, "with results": lambda r: r.n_tokens}
    series = []
    for index, arm in enumerate(arms):
        for label, value in of.items():
            pooled: dict[int, list[float]] = {}
            for batch in (batch for run in arm.runs for batch in run.batches):
                pooled.setdefault(batch.step, []).extend(finite(map(value, batch.rollouts)))
            if at := [pooled[step] for step in sorted(pooled)]:
                series.append(Series(index, label, sorted(pooled), [*map(fmean, at)], [*map(min, at)], [*map(max, at)]))
    caption = "Tokens per rollout: what the policy wrote, and the whole context after the prompt. Mean, in a band from "
    caption += "the shortest to the longest rollout of the batch."
    return Figure("length", "Response length", caption, "steps", "step", "tokens", series)


def envelope(arms: list[Arm]) -> Figure:
    """Draw the advantages of all turns of a batch: their mean, and where 90 % of them lie (the paper's figure 5)."""
    series = []
    for index, arm in enumerate(arms):
        pooled: dict[int, list[float]] = {}
        for batch in (batch for run in arm.runs for batch in run.batches):
            turns = finite(a for rollout in batch.rollouts if rollout.valid for a in rollout.advantage)
            pooled.setdefault(batch.step, []).extend(turns)
        steps = sorted(step for step, turns in pooled.items() if turns)
        if steps:
            at = [sorted(pooled[step]) for step in steps]
            low = [turns[round(0.05 * (len(turns) - 1))] for turns in at]
            high = [turns[round(0.95 * (len(turns) - 1))] for turns in at]
            series.append(Series(index, "", steps, [*map(fmean, at)], [*low], [*high]))
    caption = "Advantage of every turn of the batch: mean, and a band that holds 90 % of the turns."
    return Figure("advantage", "Advantage envelope", caption, "steps", "step", "advantage", series)


def _over_seeds(arm: int, label: str, curves: list[dict[int, float]]) -> list[Series]:
    """Return the mean of several seeds, in a band from the lowest to the highest."""
    steps = sorted(set().union(*curves))
    if not steps:
        return []
    at = [[curve[step] for curve in curves if step in curve] for step in steps]
    mean: list[float | None] = [fmean(values) for values in at]
    if len(curves) == 1:
        return [Series(arm, label, steps, mean)]
    return [Series(arm, label, steps, mean, [min(values) for values in at], [max(values) for values in at])]


def is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


_PARTS = {
    "generation": "generation",
    "old_logps": "old log-probabilities",
    "gain": "gain",
    "reference": "reference policy",
    "update": "update",
    "optimizer": "optimizer",
}


def step_time(arms: list[Arm]) -> Figure:
    """Draw the mean seconds of an optimizer step, by part (the paper's figure 7)."""
    series = []
    for index, arm in enumerate(arms):
        seconds = dict.fromkeys([*_PARTS.values(), "rest"], 0.0)
        steps = sum(_add_seconds(run, seconds) for run in arm.runs)
        if steps > 0:
            series.append(Series(index, "", [*seconds], [total / steps for total in seconds.values()]))
    caption = (
        "Mean seconds of an optimizer step. Gain is what the answer likelihoods add to the pass that computes the old "
        "log-probabilities; with one update a batch to generation, or a pass of their own."
    )
    return Figure("step_time", "Where a step's time goes", caption, "parts", "part", "seconds", series)


def _add_seconds(run: RunData, seconds: dict[str, float]) -> int:
    """Add the run's seconds by part; return its number of steps. Parts are sums since the last log, `step_time` is the
    mean of the steps since then and leaves the optimizer out."""
    last = 0
    for row in (row for row in run.metrics if is_number(row.get("step_time"))):
        steps, last = row["step"] - last, row["step"]
        parts = {label: _seconds(row.get(f"seconds/{part}")) for part, label in _PARTS.items()}
        for label, spent in parts.items():
            seconds[label] += spent
        seconds["rest"] += max(0.0, row["step_time"] * steps + parts["optimizer"] - sum(parts.values()))
    return last


def _seconds(value: Any) -> float:
    return float(value) if is_number(value) else 0.0
