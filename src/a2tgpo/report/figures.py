"""The series behind every figure of the page; exports and page draw the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean, pstdev
from typing import Any, Literal

from a2tgpo.report.read import RunData
from a2tgpo.report.rollouts import Rollout
from a2tgpo.report.similarity import context_similarity

Kind = Literal["steps", "turns", "parts", "matrix"]


@dataclass(frozen=True)
class Series:
    """One line, row of bars or row of a matrix. `arm` is the index of the runs it belongs to.

    `low` and `high`, where given, bound a band whose meaning the figure's caption tells. None is a gap.
    """

    arm: int
    label: str
    x: list[Any]
    y: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None


@dataclass(frozen=True)
class Figure:
    """`kind`: over steps, over turn indices, seconds by part, or a matrix of turn by turn."""

    id: str
    title: str
    caption: str
    kind: Kind
    x: str
    series: list[Series] = field(default_factory=list)


@dataclass(frozen=True)
class Arm:
    """Runs of one recipe that differ in their seed."""

    name: str
    runs: list[RunData]


_NOT_THE_RECIPE = ("seed", "data_seed", "output_dir", "resume_from_checkpoint", "run_name")


def arms_of(runs: list[RunData]) -> list[Arm]:
    """Group `runs` by recipe; without a recipe a run stands alone."""
    grouped: dict[Any, list[RunData]] = {}
    for number, run in enumerate(runs):
        recipe = {key: value for key, value in run.config.items() if key not in _NOT_THE_RECIPE}
        grouped.setdefault(repr(sorted(recipe.items())) if recipe else number, []).append(run)
    return [
        Arm(members[0].name if len(members) == 1 else f"{members[0].name} ({len(members)} seeds)", members)
        for members in grouped.values()
    ]


SECTIONS = {
    "Outcome": ("reward", "exact_match", "likelihood", "searches", "format", "length"),
    "Credit": ("gain_raw", "gain_normalized", "gain_accumulated", "advantage", "similarity"),
    "Update": ("entropy", "clipped", "kl", "grad_norm", "step_time"),
}
"""Figures by id, in the order of the page."""


def figures_of(arms: list[Arm]) -> list[Figure]:
    """Every figure that has data, in the order of `SECTIONS`."""
    figures = [
        *(_logged(arms, *row) for row in _LOGGED),
        _per_batch(
            arms,
            "exact_match",
            "Exact match in training",
            "Share of the batch's rollouts whose answer matches a gold alias after SQuAD normalisation.",
            {"": lambda rollouts: fmean(rollout.correct for rollout in rollouts)},
        ),
        _per_batch(
            arms,
            "length",
            "Response length",
            "Tokens per rollout: what the policy wrote, and the whole context after the prompt.",
            {
                "policy": lambda rollouts: fmean(rollout.n_policy_tokens for rollout in rollouts),
                "with results": lambda rollouts: fmean(rollout.n_tokens for rollout in rollouts),
            },
        ),
        _envelope(arms),
        *(_by_turn(arms, *row) for row in _BY_TURN),
        _step_time(arms),
        _similarity(arms),
    ]
    drawn = {figure.id: figure for figure in figures if figure.series}
    return [drawn[id] for ids in SECTIONS.values() for id in ids if id in drawn]


# --- over steps ------------------------------------------------------------------------------------------------------

_LOGGED: tuple[tuple[str, str, str, dict[str, str]], ...] = (
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


def _logged(arms: list[Arm], id: str, title: str, caption: str, metrics: dict[str, str]) -> Figure:
    """Metrics as the run logged them."""
    series = []
    for index, arm in enumerate(arms):
        for metric, label in metrics.items():
            curves = [
                {row["step"]: row[metric] for row in run.metrics if _is_number(row.get(metric))} for run in arm.runs
            ]
            series += _over_seeds(index, label, curves)
    return Figure(id, title, caption, "steps", "step", series)


def _per_batch(
    arms: list[Arm], id: str, title: str, caption: str, values: dict[str, Callable[[list[Rollout]], float]]
) -> Figure:
    """A number of each generation batch, from its rollouts."""
    series = []
    for index, arm in enumerate(arms):
        for label, value in values.items():
            curves = [{batch.step: value(batch.rollouts) for batch in run.batches} for run in arm.runs]
            series += _over_seeds(index, label, curves)
    return Figure(id, title, caption, "steps", "step", series)


def _over_seeds(arm: int, label: str, curves: list[dict[int, float]]) -> list[Series]:
    """Of several seeds their mean, in a band from the lowest to the highest."""
    steps = sorted(set().union(*curves))
    if not steps:
        return []
    at = [[curve[step] for curve in curves if step in curve] for step in steps]
    mean: list[float | None] = [fmean(values) for values in at]
    if len(curves) == 1:
        return [Series(arm, label, steps, mean)]
    return [Series(arm, label, steps, mean, [min(values) for values in at], [max(values) for values in at])]


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and math.isfinite(value)


def _envelope(arms: list[Arm]) -> Figure:
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


# --- over turns ------------------------------------------------------------------------------------------------------

_BY_TURN: tuple[tuple[str, str, str, Callable[[Rollout], Iterable[float]]], ...] = (
    (
        "gain_raw",
        "Gain, raw",
        "Rise of the gold answer's likelihood over the turn. Mean ± standard deviation over all process turns.",
        lambda rollout: rollout.gain,
    ),
    (
        "gain_normalized",
        "Gain, normalised in its turn group",
        "In turn groups the mean of each turn is 0 by construction; the spread is what the group leaves. Methods that "
        "normalise over other turns too have other means.",
        lambda rollout: rollout.normalized_gain,
    ),
    (
        "gain_accumulated",
        "Gain, accumulated",
        "Normalised gains summed from the turn to the last, divided by √n. Mean ± standard deviation.",
        lambda rollout: rollout.terms.accumulated if rollout.terms else (),
    ),
)


def _by_turn(
    arms: list[Arm], id: str, title: str, caption: str, values: Callable[[Rollout], Iterable[float]]
) -> Figure:
    series = []
    for index, arm in enumerate(arms):
        at: dict[int, list[float]] = {}
        for run in arm.runs:
            for rollout in (rollout for batch in run.batches for rollout in batch.rollouts if rollout.valid):
                for turn, value in enumerate(values(rollout), start=1):
                    at.setdefault(turn, []).append(value)
        if at:
            means, stds = [fmean(at[turn]) for turn in sorted(at)], [pstdev(at[turn]) for turn in sorted(at)]
            low: list[float | None] = [mean - std for mean, std in zip(means, stds, strict=True)]
            high: list[float | None] = [mean + std for mean, std in zip(means, stds, strict=True)]
            series.append(Series(index, "", sorted(at), [*means], low, high))
    return Figure(id, title, caption, "turns", "turn", series)


def _similarity(arms: list[Arm]) -> Figure:
    series = []
    for index, arm in enumerate(arms):
        matrix = context_similarity(rollouts for run in arm.runs for rollouts in (b.rollouts for b in run.batches))
        turns = list(range(1, len(matrix) + 1))
        series += [Series(index, f"turn {turn}", turns, row) for turn, row in zip(turns, matrix, strict=True)]
    caption = (
        "How alike the contexts of two rollouts of one question are, by turn: mean Jaccard overlap of their distinct "
        "tokens through the turn's result. The diagonal is a turn group."
    )
    return Figure("similarity", "Same turn against other turns", caption, "matrix", "turn", series)


# --- seconds ---------------------------------------------------------------------------------------------------------

_PARTS = {
    "generation": "generation",
    "old_logps": "old log-probabilities",
    "gain": "gain",
    "update": "update",
    "optimizer": "optimizer",
}


def _step_time(arms: list[Arm]) -> Figure:
    series = []
    for index, arm in enumerate(arms):
        seconds = dict.fromkeys([*_PARTS.values(), "rest"], 0.0)
        steps = sum(_add_seconds(run, seconds) for run in arm.runs)
        if steps:
            series.append(Series(index, "", [*seconds], [total / steps for total in seconds.values()]))
    caption = (
        "Mean seconds of an optimizer step. Gain is what the answer likelihoods add to the pass that computes the old "
        "log-probabilities, or to generation where there is no such pass."
    )
    return Figure("step_time", "Where a step's time goes", caption, "parts", "part", series)


def _add_seconds(run: RunData, seconds: dict[str, float]) -> int:
    """Add the run's seconds by part; return its number of steps. Parts are sums since the last log, `step_time` is the
    mean of the steps since then and leaves the optimizer out."""
    last = 0
    for row in (row for row in run.metrics if _is_number(row.get("step_time"))):
        steps, last = row["step"] - last, row["step"]
        parts = {label: row.get(f"seconds/{part}", 0.0) for part, label in _PARTS.items()}
        for label, spent in parts.items():
            seconds[label] += spent
        seconds["rest"] += max(0.0, row["step_time"] * steps + parts["optimizer"] - sum(parts.values()))
    return last
