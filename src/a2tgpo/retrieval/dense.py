"""Nearest passages by inner product of unit vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from a2tgpo.retrieval.base import Ranking
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.faiss_index import faiss_type

if TYPE_CHECKING:
    import faiss

EFFORT = {"hnsw": 256, "ivfpq": 128}
"""What a search looks at where the user does not say: candidates of a graph (efSearch), cells (nprobe)."""


class DenseRanker:
    """Ranks passages by the inner product of their vectors with the query's.

    Args:
        index: a faiss index with one vector per passage, in the order of the corpus.
        encoder: the one that made the vectors.
        effort: efSearch of an HNSW graph, nprobe of IVF-PQ; 1 or more. More finds more of the exact neighbours and
            takes longer. None: `EFFORT`.

    Raises:
        ValueError: an effort for an index that compares the query with every vector, or one below 1.
    """

    def __init__(self, index: faiss.Index, encoder: Encoder, effort: int | None = None) -> None:
        self.index, self.encoder = index, encoder
        kind = faiss_type(index)
        assert kind is not None
        if effort is not None and kind not in EFFORT:
            raise ValueError(f"effort={effort}: a {kind} index compares every vector; leave it away")
        if effort is not None and effort < 1:
            raise ValueError(f"effort={effort}: must be at least 1")
        self._effort = EFFORT.get(kind, 0) if effort is None else effort

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]:
        asked = [query for query in queries if query.strip()]
        found = iter(self.rank_vectors(self.encoder.queries(asked), k) if asked else ())
        return [next(found) if query.strip() else [] for query in queries]

    def rank_vectors(self, vectors: np.ndarray, k: int) -> list[Ranking]:
        """The rankings of queries that are encoded already, float32 [queries, dimension]."""
        k = min(k, self.index.ntotal)
        scores, positions = self.index.search(vectors, k, params=self._parameters(k))
        # Position −1 fills up where the cells that were looked at hold fewer than k.
        found = [
            [(position, score) for position, score in zip(*of_one, strict=True) if position >= 0]
            for of_one in zip(positions.tolist(), scores.tolist(), strict=True)
        ]
        return [sorted(ranking, key=lambda hit: (-hit[1], hit[0])) for ranking in found]

    def _parameters(self, k: int) -> Any:
        import faiss

        kind = faiss_type(self.index)
        if kind == "hnsw":
            return faiss.SearchParametersHNSW(efSearch=max(self._effort, k))
        return faiss.SearchParametersIVF(nprobe=self._effort) if kind == "ivfpq" else None
