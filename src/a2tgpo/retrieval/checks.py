"""Whether vectors, encoder and passages belong together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from a2tgpo.errors import IndexMismatch
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.layout import IndexFolder
from a2tgpo.retrieval.store import PassageStore

if TYPE_CHECKING:
    import faiss

# Cosines. With MiniLM bfloat16 leaves a probe at 0.9999 and a prefix changes it to 0.98 or less.
_SAME_PROBE = 0.995
# A passage without the quotes around its title, or without its title, keeps 0.98: it was the same corpus and encoder.
_SAME_PASSAGES, _SAMPLE = 0.9, 16


def check_sizes(index: faiss.Index, n_passages: int, dimension: int, path: Path) -> None:
    """Raises IndexMismatch unless the index holds one vector of the encoder's dimension for each passage."""
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


def check_probe(encoder: Encoder, at: IndexFolder) -> None:
    """Raises IndexMismatch unless the encoder still maps a fixed sentence to the vectors that the build saw."""
    try:
        expected = np.load(at.probe)
    except (OSError, ValueError, EOFError) as failure:
        raise IndexMismatch(
            f"{at.probe} is missing or damaged ({failure}); delete the folder and build the index again"
        ) from failure
    if expected.shape != encoder.probe.shape:
        raise IndexMismatch(
            f"{at.root} was built with an encoder of {expected.shape[1]} dimensions and this one has "
            f"{encoder.dimension}; use the same encoder or delete the folder and build the index again"
        )
    if (cosine := float(_cosines(expected, encoder.probe).min())) < _SAME_PROBE:
        raise IndexMismatch(
            f"{at.root} was built with other weights or prefixes than the encoder has now: a fixed sentence differs, "
            f"cosine {cosine:.3f}; use the same encoder or delete the folder and build the index again"
        )


def check_vectors(index: faiss.Index, store: PassageStore, encoder: Encoder, path: Path) -> None:
    """Raises IndexMismatch unless sixteen passages, spread over the corpus, have the encoder's vectors in the index."""
    positions = np.unique(np.linspace(0, len(store) - 1, _SAMPLE).astype(int)).tolist()
    try:
        found = np.stack([index.reconstruct(position) for position in positions])
    except RuntimeError as failure:
        raise IndexMismatch(f"the vectors of {path} cannot be read back to check them; give a flat index") from failure
    cosines = _cosines(found, encoder.passages([store[position] for position in positions]))
    if (cosine := float(cosines.min())) < _SAME_PASSAGES:
        raise IndexMismatch(
            f"{path} does not hold this encoder's vectors of these passages: passage {positions[cosines.argmin()]} has "
            f"cosine {cosine:.3f}; give the corpus and encoder that it was made with"
        )


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)
