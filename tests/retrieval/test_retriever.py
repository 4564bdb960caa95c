"""Reciprocal rank fusion: the numbers of its formula, and properties that any fusion of orders has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.retrieval.retriever import FusedRanker, Ranking, fuse


def ranking(*positions: int) -> Ranking:
    """Positions best first; the scores are of any size and must not matter."""
    return [(position, 1e6 / (i + 1)) for i, position in enumerate(positions)]


class Fixed:
    """A ranker that always finds the same and remembers how much was asked of it."""

    def __init__(self, *positions: int) -> None:
        self.found = ranking(*positions)
        self.asked: list[int] = []

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]:
        self.asked.append(k)
        return [self.found[:k] for _ in queries]


def test_scores_by_hand() -> None:
    """1/61 + 1/62 for the passages that are first and second, 1/63 for the one that only one ranker found."""
    fused = fuse([ranking(7, 3, 5), ranking(3, 7)])
    assert fused == [
        (3, pytest.approx(1 / 62 + 1 / 61)),
        (7, pytest.approx(1 / 61 + 1 / 62)),
        (5, pytest.approx(1 / 63)),
    ]


def test_both_beat_one() -> None:
    """A passage that both rank third comes before one that a single ranker has first: 2/63 > 1/61."""
    assert fuse([ranking(1, 2, 9), ranking(3, 4, 9)])[0] == (9, pytest.approx(2 / 63))


rankings = st.lists(st.lists(st.integers(0, 20), unique=True).map(lambda positions: ranking(*positions)), max_size=4)


@given(rankings)
def test_every_found_passage_is_ranked_once(found: list[Ranking]) -> None:
    """Nothing is lost or repeated, the best is first, and the order of the rankers does not matter."""
    fused = fuse(found)
    assert sorted(position for position, _ in fused) == sorted({position for one in found for position, _ in one})
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)
    again = fuse(found[::-1])
    assert dict(again) == pytest.approx(dict(fused))


@given(st.lists(st.integers(0, 20), unique=True))
def test_one_ranking_keeps_its_order(positions: list[int]) -> None:
    """Fused with itself or alone, a ranking stays as it is."""
    alone, twice = fuse([ranking(*positions)]), fuse([ranking(*positions)] * 2)
    assert [position for position, _ in alone] == [position for position, _ in twice] == positions


def test_depth_is_a_hundred_or_k() -> None:
    """Passages below rank k of each ranker can still win, so more than k are asked for; every query gets k."""
    one, other = Fixed(*range(150)), Fixed(*range(149, -1, -1))
    ranker = FusedRanker([one, other])
    assert [len(found) for found in ranker.rank(["a", "b"], 3)] == [3, 3]
    assert len(ranker.rank(["a"], 120)[0]) == 120
    assert one.asked == other.asked == [100, 120]
