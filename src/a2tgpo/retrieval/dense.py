"""Keep the vectors of a corpus in a faiss index, and rank passages by their inner product with a query's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from a2tgpo.errors import IndexMismatch, RecipeError, needs_extra
from a2tgpo.files import new_file
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.passage_store import passages_bar
from a2tgpo.retrieval.retriever import Ranking
from a2tgpo.retrieval.settings import FaissType

if TYPE_CHECKING:
    import faiss

EFFORT = {"hnsw": 256, "ivfpq": 128}
"""Candidates of a graph (efSearch) or cells (nprobe) that a search looks at where the user does not say."""

_BLOCK = 65_536
_HNSW_LINKS, _HNSW_CONSTRUCTION = 32, 128
_DIMENSIONS_PER_CODE = 4  # one byte for four dimensions: 1/16 of float32
_TRAINING_PER_CELL, _TRAINING_PER_CODE = 39, 256 * 39  # below 39 vectors for each centroid faiss warns


class DenseRanker:
    """Rank passages by the inner product of their vectors with the query's.

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
        """Rank for queries that are encoded already, float32 [queries, dimension]."""
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


def build_faiss(kind: FaissType, vectors: Sequence[np.ndarray], path: Path) -> None:
    """Write the index of `vectors`, arrays [n, dimension] that follow each other in the corpus's order.

    Flat and hnsw need memory for all vectors, sq8 a quarter of it, ivfpq a sixteenth and a training sample. What is
    trained is trained on a sample with a fixed seed; with one thread the file is the same every time.

    Raises:
        RecipeError: too few passages for ivfpq, or a dimension that it cannot divide.
    """
    faiss = import_faiss()
    n, dimension = sum(map(len, vectors)), vectors[0].shape[1]
    index = faiss.index_factory(dimension, _factory(kind, n, dimension), faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = _HNSW_CONSTRUCTION
    if not index.is_trained:
        cells = getattr(index, "nlist", 1)
        index.train(_sample(vectors, max(_TRAINING_PER_CELL * cells, _TRAINING_PER_CODE)))
    with passages_bar(f"building {kind}", total=n) as progress:
        for block in _blocks(vectors):
            index.add(block)
            progress.update(len(block))
    with new_file(path) as unfinished:
        faiss.write_index(index, str(unfinished))


def open_faiss(path: Path) -> faiss.Index:
    """Open a faiss index whose vectors and links stay on disk, memory-mapped.

    Raises:
        IndexMismatch: it cannot be read, or is no index by inner product of a type in `FAISS_TYPES`.
    """
    faiss = import_faiss()
    if not path.is_file():
        raise IndexMismatch(f"{path} does not exist; give the path of a faiss index")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as failure:
        reason = str(failure).rsplit(": ", 1)[-1]
        raise IndexMismatch(f"{path} is no faiss index, or a damaged one ({reason}); build it again") from failure
    if faiss_type(index) is None:
        raise IndexMismatch(
            f"{path} is a {type(index).__name__} of metric {index.metric_type}; "
            "flat, hnsw, sq8 and ivfpq by inner product can be used"
        )
    return index


def faiss_type(index: faiss.Index) -> FaissType | None:
    """Return the type of an index by inner product; None for one of another kind."""
    import faiss

    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        return None
    types: tuple[tuple[FaissType, type], ...] = (
        ("flat", faiss.IndexFlat),
        ("hnsw", faiss.IndexHNSWFlat),
        ("ivfpq", faiss.IndexIVFPQ),
        ("sq8", faiss.IndexScalarQuantizer),
    )
    return next((name for name, kind in types if isinstance(index, kind)), None)


def vectors_of(index: faiss.Index) -> np.ndarray:
    """Return the vectors of a flat index where they lie, float32 [passages, dimension]."""
    import faiss

    flat = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return flat.reshape(index.ntotal, index.d)


def check_sizes(index: faiss.Index, n_passages: int, dimension: int, path: Path) -> None:
    """Raise IndexMismatch unless the index holds one vector of the encoder's dimension for each passage."""
    if index.ntotal != n_passages:
        raise IndexMismatch(
            f"{path} holds {index.ntotal:,} vectors and there are {n_passages:,} passages; "
            "use the corpus that it was made from"
        )
    if index.d != dimension:
        raise IndexMismatch(
            f"{path} holds vectors of {index.d} dimensions and the encoder makes {dimension}; "
            "use the encoder that it was made with"
        )


def import_faiss() -> Any:
    """Return faiss, or raise a MissingExtra that says how to install it."""
    with needs_extra("dense", "dense retrieval"):
        import faiss
    return faiss


def _factory(kind: FaissType, n: int, dimension: int) -> str:
    if kind != "ivfpq":
        return {"flat": "Flat", "hnsw": f"HNSW{_HNSW_LINKS}", "sq8": "SQ8"}[kind]
    if n < 256:
        raise RecipeError(f"faiss_type='ivfpq' needs at least 256 passages and the corpus has {n}; use flat")
    if dimension % _DIMENSIONS_PER_CODE:
        raise RecipeError(
            f"faiss_type='ivfpq' needs a dimension that {_DIMENSIONS_PER_CODE} divides and the encoder has "
            f"{dimension}; use sq8"
        )
    # About 4 √n cells, a power of two, as faiss advises; fewer where they could not be trained.
    cells = min(2 ** round(math.log2(4 * math.sqrt(n))), max(1, n // _TRAINING_PER_CELL))
    # np: no polysemous training, which is slow and serves a kind of search that is not used here.
    return f"IVF{cells},PQ{dimension // _DIMENSIONS_PER_CODE}np"


def _sample(vectors: Sequence[np.ndarray], size: int) -> np.ndarray:
    ends = np.cumsum([len(array) for array in vectors])
    chosen = np.sort(np.random.default_rng(0).choice(ends[-1], min(size, ends[-1]), replace=False))
    parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
    begins = ends - [len(array) for array in vectors]
    return np.concatenate([array[part - begin] for array, part, begin in zip(vectors, parts, begins, strict=True)])


def _blocks(vectors: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for array in vectors:
        for begin in range(0, len(array), _BLOCK):
            yield np.ascontiguousarray(array[begin : begin + _BLOCK], np.float32)
