"""Say what a retriever is (queries in, ranked passages out), what ranks passages, and how rankings are fused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from a2tgpo.retrieval.corpus import Passage

_OFFSET = 60  # the k of Cormack, Clarke and Büttcher
_DEPTH = 100  # ranks of each ranking that count, at least


@dataclass(frozen=True, slots=True)
class Hit:
    """Hold a passage found for a query. Scores compare within one query only; higher is better."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """Find passages for queries: anything with this method can serve the search tool.

    `search` returns one list per query, in the order of the queries: at most k hits, best first. An empty
    list means that nothing was found; a failure raises. It may be called from more than one thread.
    """

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]: ...


def check_search(queries: Sequence[str], k: int) -> None:
    """Raise ValueError for a k below 1, or one string in the place of a list."""
    if k < 1:
        raise ValueError(f"k={k}: must be at least 1")
    if isinstance(queries, str):
        raise ValueError(f"queries={queries!r} is one string; give a list of queries")


def search_each(retriever: Retriever, queries: Sequence[str], k: int) -> Iterator[tuple[int, list[Hit] | Exception]]:
    """Yield (position of a query, its hits or the exception that it met), as results arrive.

    A retriever that knows which query failed says so in a method of its own, `search_each(queries, k)`, as
    `HTTPRetriever` does. Any other is asked for all at once and, where that fails, for one after another, so that a
    query which it cannot answer takes no other with it.
    """
    if own := getattr(retriever, "search_each", None):
        yield from own(queries, k)
        return
    try:
        found = retriever.search(queries, k)
    except Exception as failure:
        if len(queries) == 1:
            yield 0, failure
            return
        for position, query in enumerate(queries):
            try:
                (hits,) = retriever.search([query], k)
                yield position, hits
            except Exception as own_failure:
                yield position, own_failure
        return
    if len(found) != len(queries):
        raise TypeError(
            f"{type(retriever).__name__} returned {len(found)} results for {len(queries)} queries; "
            "it must return one list per query"
        )
    yield from enumerate(found)


Ranking = list[tuple[int, float]]
"""Positions in the corpus with their scores, best first; equal scores in the corpus's order."""


class Ranker(Protocol):
    """Rank the passages of one corpus by their positions, so that rankers combine before any text is read.

    `rank` returns one ranking of at most k positions per query; a blank query finds nothing. It may be called from more
    than one thread.
    """

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]: ...


class PassageRetriever:
    """Search with a ranker, and give the passages that its positions stand for.

    Args:
        passages: in the order of the corpus; in memory or on disk.
        ranker: made from these very passages.
    """

    def __init__(self, passages: Sequence[Passage], ranker: Ranker) -> None:
        self.passages = passages
        self.ranker = ranker

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return the k best passages for each query, best first; passages of equal score keep the corpus's order.

        Args:
            queries: any number of query strings; a blank one has no hit.
            k: most hits per query, 1 or more; may exceed the number of passages.
        """
        check_search(queries, k)
        rankings = self.ranker.rank(queries, k)
        found = ([Hit(self.passages[position], score) for position, score in ranking] for ranking in rankings)
        return [[hit for hit in hits if not hit.passage.is_blank] for hits in found]


class FusedRanker:
    """Rank by reciprocal rank fusion: the sum over rankers of 1/(60 + rank), rank from 1.

    A ranker that did not find a passage adds nothing (Cormack, Clarke and Büttcher, SIGIR 2009). The scores of the
    rankers do not matter, only their orders. The first 100 ranks of each count, or k if that is more.
    """

    def __init__(self, rankers: Sequence[Ranker]) -> None:
        self.rankers = rankers

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]:
        rankings = [ranker.rank(queries, max(k, _DEPTH)) for ranker in self.rankers]
        return [fuse(of_one_query)[:k] for of_one_query in zip(*rankings, strict=True)]


def fuse(rankings: Sequence[Ranking]) -> Ranking:
    """Return one ranking of all positions in `rankings`; equal scores in the corpus's order."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (position, _) in enumerate(ranking, start=1):
            scores[position] = scores.get(position, 0.0) + 1 / (_OFFSET + rank)
    return sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))
