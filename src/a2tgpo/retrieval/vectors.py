"""Encodes a corpus shard by shard, so that a killed build goes on at the last finished shard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from a2tgpo.files import new_file
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.progress import passages_bar
from a2tgpo.retrieval.store import PassageStore

_SHARD = 4096  # minutes of a CPU core with a small encoder, seconds of a GPU
_STEP = 1024  # passages between two moves of the progress bar; the encoder sorts within them by length


class Shards(Sequence[np.ndarray]):
    """Arrays float32 [n, dimension] in files, memory-mapped one at a time: thousands would use up the open files."""

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
    """The unit vectors of all passages in their order, in shards of 4,096.

    Shards that an earlier call left in `folder` are not encoded again. The passages that a batch holds do not depend on
    where a build was stopped, so neither do the vectors.
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
