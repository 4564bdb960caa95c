"""Make the vectors of a corpus shard by shard, or take over those that somebody else has computed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from a2tgpo.errors import IndexMismatch
from a2tgpo.files import new_file
from a2tgpo.retrieval.dense import build_faiss, check_sizes, faiss_type, open_faiss, vectors_of
from a2tgpo.retrieval.encoder import Encoder, cosines
from a2tgpo.retrieval.passage_store import PassageStore, passages_bar
from a2tgpo.retrieval.settings import FaissType

if TYPE_CHECKING:
    import faiss

_SHARD = 4096  # minutes of a CPU core with a small encoder, seconds of a GPU
_STEP = 1024  # passages between two moves of the progress bar; the encoder sorts within them by length
# A cosine. A passage without the quotes around its title, or without its title, keeps 0.98: it was the same corpus.
_SAME_PASSAGES, _SAMPLE = 0.9, 16


class Shards(Sequence[np.ndarray]):
    """Hold arrays float32 [n, dimension] in files, one memory-mapped at a time: thousands use up the open files."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, number: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, number: slice) -> Shards: ...
    def __getitem__(self, number: int | slice) -> np.ndarray | Shards:
        if isinstance(number, slice):
            return Shards(self._paths[number])
        return np.load(self._paths[number], mmap_mode="r")


def encode_corpus(store: PassageStore, encoder: Encoder, folder: Path) -> Shards:
    """Encode all passages in their order, unit vectors in shards of 4,096.

    Shards that an earlier call left in `folder` are not encoded again, so a killed build goes on at the last one. The
    passages that a batch holds do not depend on where a build was stopped, and neither do the vectors.
    """
    folder.mkdir(exist_ok=True)
    paths: list[Path] = []
    with passages_bar("encoding", total=len(store)) as progress:
        for number, begin in enumerate(range(0, len(store), _SHARD)):
            path, end = folder / f"{number:05d}.npy", min(begin + _SHARD, len(store))
            if path.exists():
                progress.update(end - begin)
            else:
                vectors = np.empty((end - begin, encoder.dimension), np.float32)
                for i in range(begin, end, _STEP):
                    passages = store[i : min(i + _STEP, end)]
                    vectors[i - begin : i - begin + len(passages)] = encoder.passages(passages)
                    progress.update(len(passages))
                with new_file(path) as unfinished, unfinished.open("wb") as file:
                    np.save(file, vectors)
            paths.append(path)
    return Shards(paths)


@dataclass(frozen=True, slots=True)
class AdoptedVectors:
    """Take a faiss index over as one of type `kind`, or turn it into one."""

    path: Path
    kind: FaissType
    index: faiss.Index

    @classmethod
    def open(cls, path: Path, kind: FaissType) -> AdoptedVectors:
        """Open it, or raise IndexMismatch where `path` is no index that can be, or become, of type `kind`."""
        index = open_faiss(path)
        if (found := faiss_type(index)) not in (kind, "flat"):
            raise IndexMismatch(
                f"{path} is a {found} index, which cannot become {kind}; give a flat one or --faiss_type {found}"
            )
        return cls(path, kind, index)

    def write(self, store: PassageStore, encoder: Encoder, to: Path) -> None:
        """Link or build the file `to`.

        Raises:
            IndexMismatch: they are not this encoder's vectors of the passages in `store`.
        """
        check_sizes(self.index, len(store), encoder.dimension, self.path)
        _check_vectors(self.index, store, encoder, self.path)
        if faiss_type(self.index) == self.kind:
            _link(self.path, to)
        else:
            build_faiss(self.kind, [vectors_of(self.index)], to)


def _check_vectors(index: faiss.Index, store: PassageStore, encoder: Encoder, path: Path) -> None:
    """Raise IndexMismatch unless sixteen passages, spread over the corpus, have the encoder's vectors in the index."""
    positions = np.unique(np.linspace(0, len(store) - 1, _SAMPLE).astype(int)).tolist()
    try:
        found = np.stack([index.reconstruct(position) for position in positions])
    except RuntimeError as failure:
        raise IndexMismatch(f"the vectors of {path} cannot be read back to check them; give a flat index") from failure
    same = cosines(found, encoder.passages([store[position] for position in positions]))
    if (cosine := float(same.min())) < _SAME_PASSAGES:
        raise IndexMismatch(
            f"{path} does not hold this encoder's vectors of these passages: passage {positions[same.argmin()]} has "
            f"cosine {cosine:.3f}; give the corpus and encoder that it was made with"
        )


def _link(source: Path, to: Path) -> None:
    with new_file(to) as unfinished:
        try:
            os.link(source.resolve(), unfinished)  # a link to a link would point nowhere from here
        except OSError:  # another disk
            shutil.copyfile(source, unfinished)
