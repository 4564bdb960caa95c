"""Figures over turns: what each depth gained, and how alike contexts are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean, pstdev

from a2tgpo.report.figures.series import Arm, Figure, Series
from a2tgpo.report.rollouts import Rollout
from a2tgpo.report.similarity import context_similarity

BY_TURN: tuple[tuple[str, str, str, Callable[[Rollout], Iterable[float]]], ...] = (
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


def by_turn(arms: list[Arm], id: str, title: str, caption: str, values: Callable[[Rollout], Iterable[float]]) -> Figure:
    """A number of each turn: mean and standard deviation over all rollouts, by depth from 1."""
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


def similarity(arms: list[Arm]) -> Figure:
    """How alike contexts are between the rollouts of a question, turn by turn."""
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
