"""Draw figures over turns: what each depth gained, and how alike turns are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import fmean, pstdev

import numpy as np

from a2tgpo.report.logged_rollout import Rollout
from a2tgpo.report.series import Arm, Figure, Series

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
    """Draw a number of each turn: mean and standard deviation over all rollouts, by depth from 1."""
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
    """Draw how alike contexts are between the rollouts of a question, turn by turn."""
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


def context_similarity(batches: Iterable[list[Rollout]]) -> list[list[float | None]]:
    """Return the mean Jaccard overlap |A ∩ B| / |A ∪ B| of the contexts of two different rollouts of one prompt.

    A is the set of distinct tokens from the end of the prompt through the result of turn a in one rollout, B the same
    through turn b in the other.

    Returns:
        `[T][T]`, row a, column b, symmetric; None where no two rollouts have these turns.
    """
    groups = [group for rollouts in batches for group in _groups(rollouts)]
    width = max((rollout.n_process for group in groups for rollout in group), default=0)
    total, count = np.zeros((width, width)), np.zeros((width, width))
    for group in groups:
        _add(group, total, count)
    return [[float(total[a, b] / count[a, b]) if count[a, b] else None for b in range(width)] for a in range(width)]


def _groups(rollouts: list[Rollout]) -> Iterable[list[Rollout]]:
    groups: dict[int, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.group, []).append(rollout)
    return groups.values()


def _add(group: list[Rollout], total: np.ndarray, count: np.ndarray) -> None:
    contexts = [(i, turn, seen) for i, rollout in enumerate(group) for turn, seen in enumerate(_contexts(rollout))]
    if not contexts:
        return
    column = {token: k for k, token in enumerate(sorted(set().union(*(seen for _, _, seen in contexts))))}
    has = np.zeros((len(contexts), len(column)), dtype=np.float32)
    for row, (_, _, seen) in enumerate(contexts):
        has[row, [column[token] for token in seen]] = 1
    shared = has @ has.T
    size = has.sum(axis=1)
    overlap = shared / (size[:, None] + size - shared)
    owner, turn = np.array([i for i, _, _ in contexts]), np.array([turn for _, turn, _ in contexts])
    first, second = np.nonzero(owner[:, None] != owner)
    np.add.at(total, (turn[first], turn[second]), overlap[first, second])
    np.add.at(count, (turn[first], turn[second]), 1)


def _contexts(rollout: Rollout) -> Iterable[set[int]]:
    """Yield the distinct tokens seen through the result of each process turn."""
    seen: set[int] = set()
    process = 0
    for segment in rollout.segments:
        seen.update(segment.ids)
        if segment.turn < 0 and process < rollout.n_process:
            process += 1
            yield set(seen)
