"""What a retriever is: queries in, ranked passages out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from a2tgpo.retrieval.corpus import Passage


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found for a query. Scores compare within one query only; higher is better."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """Anything with this method can serve the search tool.

    `search` returns one list per query, in the order of the queries: at most k hits, best first. An empty
    list means that nothing was found; a failure raises. It may be called from more than one thread.
    """

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]: ...
