"""Keep passages on disk: any of millions at hand, none in memory."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from a2tgpo.errors import IndexMismatch
from a2tgpo.files import new_folder, parse_json
from a2tgpo.retrieval.corpus import Passage, repeated_id, stream_corpus

_TEXT, _OFFSETS = "passages.jsonl", "offsets.npy"
_LOG_EVERY_S = 60.0


class PassageStore(Sequence[Passage]):
    """Read the passages of a corpus from memory-mapped files when they are asked for.

    `passages.jsonl` is a corpus itself, one {"id", "title", "text"} per line; `offsets.npy` says at which byte each
    line begins and where the last one ends.

    Args:
        folder: as `PassageStore.write` left it.

    Raises:
        IndexMismatch: a file is missing or does not fit the other one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._offsets = np.load(folder / _OFFSETS, mmap_mode="r")
            self._text = np.memmap(folder / _TEXT, np.uint8, "r")
        except (OSError, ValueError, EOFError) as failure:
            raise IndexMismatch(
                f"the passages in {folder} cannot be read ({failure}); delete the folder and build the index again"
            ) from failure
        if (expected := int(self._offsets[-1])) != self.n_bytes:
            raise IndexMismatch(
                f"{folder / _TEXT} has {self.n_bytes:,} bytes and {expected:,} were written: passages were lost or "
                "changed; delete the folder and build the index again"
            )

    @classmethod
    def write(cls, corpus: Path, folder: Path) -> PassageStore:
        """Copy a corpus file into a new `folder`, passage by passage.

        Raises:
            CorpusError: see `read_corpus`.
        """
        offsets, id_hashes = array("q", [0]), array("q")
        with new_folder(folder) as unfinished:
            with (unfinished / _TEXT).open("wb") as text:
                for _, passage in passages_bar("reading", stream_corpus(corpus)):
                    row = {"id": passage.id, "title": passage.title, "text": passage.text}
                    line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
                    text.write(line)
                    offsets.append(offsets[-1] + len(line))
                    id_hashes.append(hash(passage.id))
            _check_ids(corpus, np.frombuffer(id_hashes, np.int64))
            np.save(unfinished / _OFFSETS, np.frombuffer(offsets, np.int64))
        return cls(folder)

    @property
    def n_bytes(self) -> int:
        return len(self._text)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, position: int) -> Passage: ...
    @overload
    def __getitem__(self, position: slice) -> list[Passage]: ...
    def __getitem__(self, position: int | slice) -> Passage | list[Passage]:
        if isinstance(position, slice):
            return [self._read(i) for i in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} passages")
        return self._read(position % len(self))

    def _read(self, position: int) -> Passage:
        begin, end = self._offsets[position], self._offsets[position + 1]
        try:
            row = parse_json(self._text[begin:end].tobytes())
            return Passage(row["id"], row["title"], row["text"])
        except (ValueError, KeyError, TypeError) as failure:
            raise IndexMismatch(
                f"passage {position} of {self._folder / _TEXT} is damaged; delete the folder and build the index again"
            ) from failure


def passages_bar(what: str, passages: Any = None, *, total: int | None = None) -> tqdm:
    """Count passages in a bar on standard error; in a log file, where bars cannot be redrawn, in a line a minute."""
    interval = 0.1 if sys.stderr.isatty() else _LOG_EVERY_S
    return tqdm(passages, desc=what, total=total, unit=" passages", mininterval=interval, maxinterval=interval)


def _check_ids(corpus: Path, id_hashes: np.ndarray) -> None:
    """Raise CorpusError for a repeated id.

    Eight bytes for each id tell almost always that none repeats; else the file is read again for those in doubt.
    """
    values, counts = np.unique(id_hashes, return_counts=True)
    doubtful = set(values[counts > 1].tolist())
    if not doubtful:
        return
    first_line: dict[str, int] = {}
    for number, passage in stream_corpus(corpus):
        if hash(passage.id) in doubtful and (earlier := first_line.setdefault(passage.id, number)) != number:
            raise repeated_id(corpus, passage.id, earlier, number)
