"""Search corpora of passages: in memory, in an index folder, or behind a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from a2tgpo.retrieval.corpus import Passage, corpus_fingerprint, read_corpus
from a2tgpo.retrieval.retriever import Hit, PassageRetriever, Ranker, Ranking, Retriever

if TYPE_CHECKING:
    from a2tgpo.retrieval.bm25 import BM25Retriever

__all__ = [
    "BM25Retriever",
    "Hit",
    "Passage",
    "PassageRetriever",
    "Ranker",
    "Ranking",
    "Retriever",
    "corpus_fingerprint",
    "read_corpus",
]


def __getattr__(name: str) -> Any:
    if name == "BM25Retriever":  # its libraries take longer to load than a command line may
        from a2tgpo.retrieval.bm25 import BM25Retriever

        return BM25Retriever
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
