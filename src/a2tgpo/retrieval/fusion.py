"""Reciprocal rank fusion: several rankings of one corpus as one (Cormack, Clarke and Büttcher, SIGIR 2009)."""

from __future__ import annotations

from collections.abc import Sequence

from a2tgpo.retrieval.base import Ranker, Ranking

_OFFSET = 60  # the paper's k
_DEPTH = 100  # ranks of each ranking that count, at least


class FusedRanker:
    """Ranks by the sum over rankers of 1/(60 + rank), rank from 1; a ranker that did not find a passage adds nothing.

    The scores of the rankers do not matter, only their orders. The first 100 ranks of each count, or k if that is more.
    """

    def __init__(self, rankers: Sequence[Ranker]) -> None:
        self.rankers = rankers

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]:
        rankings = [ranker.rank(queries, max(k, _DEPTH)) for ranker in self.rankers]
        return [fuse(of_one_query)[:k] for of_one_query in zip(*rankings, strict=True)]


def fuse(rankings: Sequence[Ranking]) -> Ranking:
    """One ranking of all positions in `rankings`; equal scores in the corpus's order."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (position, _) in enumerate(ranking, start=1):
            scores[position] = scores.get(position, 0.0) + 1 / (_OFFSET + rank)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))
