"""Where the parts of an index folder lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class IndexFolder:
    """Paths below `root`; which of them exist depends on the back end and on how far a build has come."""

    root: Path

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def passages(self) -> Path:
        return self.root / "passages"

    @property
    def bm25(self) -> Path:
        return self.root / "bm25"

    @property
    def dense(self) -> Path:
        return self.root / "dense"

    @property
    def vectors(self) -> Path:
        return self.dense / "vectors.faiss"

    @property
    def probe(self) -> Path:
        return self.dense / "probe.npy"

    @property
    def shards(self) -> Path:
        return self.root / "shards"
