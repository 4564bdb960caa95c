"""Vectors of a corpus that somebody else has computed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from a2tgpo.errors import IndexMismatch
from a2tgpo.files import new_file
from a2tgpo.retrieval.checks import check_sizes, check_vectors
from a2tgpo.retrieval.encoder import Encoder
from a2tgpo.retrieval.faiss_index import build_faiss, faiss_type, open_faiss, vectors_of
from a2tgpo.retrieval.settings import FaissType
from a2tgpo.retrieval.store import PassageStore

if TYPE_CHECKING:
    import faiss


@dataclass(frozen=True, slots=True)
class AdoptedVectors:
    """A faiss index that is taken over as `kind`, or turned into one of that type."""

    path: Path
    kind: FaissType
    index: faiss.Index

    @classmethod
    def open(cls, path: Path, kind: FaissType) -> AdoptedVectors:
        """Raises IndexMismatch where `path` is no index that can be, or become, of type `kind`."""
        index = open_faiss(path)
        if (found := faiss_type(index)) not in (kind, "flat"):
            raise IndexMismatch(
                f"{path} is a {found} index, which cannot become {kind}; give a flat one or --faiss_type {found}"
            )
        return cls(path, kind, index)

    def write(self, store: PassageStore, encoder: Encoder, to: Path) -> None:
        """Links or builds the file `to`.

        Raises:
            IndexMismatch: they are not this encoder's vectors of the passages in `store`.
        """
        check_sizes(self.index, len(store), encoder.dimension, self.path)
        check_vectors(self.index, store, encoder, self.path)
        if faiss_type(self.index) == self.kind:
            _link(self.path, to)
        else:
            build_faiss(self.kind, [vectors_of(self.index)], to)


def _link(source: Path, to: Path) -> None:
    with new_file(to) as unfinished:
        try:
            os.link(source.resolve(), unfinished)  # a link to a link would point nowhere from here
        except OSError:  # another disk
            shutil.copyfile(source, unfinished)
