"""How alike the contexts of a prompt's rollouts are, turn by turn: the premise of comparing gains at one depth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from a2tgpo.report.rollouts import Rollout


def context_similarity(batches: Iterable[list[Rollout]]) -> list[list[float | None]]:
    """Mean Jaccard overlap |A ∩ B| / |A ∪ B| of the contexts of two different rollouts of one prompt.

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
    """Distinct tokens seen through the result of each process turn."""
    seen: set[int] = set()
    process = 0
    for segment in rollout.segments:
        seen.update(segment.ids)
        if segment.turn < 0 and process < rollout.n_process:
            process += 1
            yield set(seen)
