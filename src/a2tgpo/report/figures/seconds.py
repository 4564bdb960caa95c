"""The figure of where a step's time goes."""

from __future__ import annotations

from a2tgpo.report.figures.series import Arm, Figure, Series
from a2tgpo.report.figures.steps import is_number
from a2tgpo.report.read import RunData

_PARTS = {
    "generation": "generation",
    "old_logps": "old log-probabilities",
    "gain": "gain",
    "update": "update",
    "optimizer": "optimizer",
}


def step_time(arms: list[Arm]) -> Figure:
    """Mean seconds of an optimizer step, by part."""
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
