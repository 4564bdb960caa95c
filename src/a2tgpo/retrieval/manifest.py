"""Say where the parts of an index folder lie, and read and write what it says about itself."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from a2tgpo.errors import IndexMismatch
from a2tgpo.files import new_file
from a2tgpo.retrieval.settings import IndexSettings
from a2tgpo.retrieval.words import WORDS_VERSION

_PACKAGES = ("a2tgpo", "bm25s", "faiss-cpu", "faiss-gpu", "sentence-transformers", "torch")
_FORMAT = 1  # raise it when a folder of before cannot be read any more


@dataclass(frozen=True, slots=True)
class IndexFolder:
    """Name the paths below `root`; which of them exist depends on the back end and on how far a build has come."""

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


@dataclass(frozen=True, slots=True)
class Manifest:
    """Hold `manifest.json` of an index folder, written when a build begins and again, as finished, when it ends.

    Attributes:
        settings: as asked for; once finished, with the prefixes that were used.
        corpus_sha256: of the corpus file's bytes.
        n_passages: 0 until finished.
        n_bytes: of the stored passages; 0 until finished.
        dimension: of the vectors; 0 until finished, or without any.
        finished: whether the folder can be opened.
        words: which rules found the words that BM25 counts, see `words.WORDS_VERSION`.
        versions: of the packages that built it. For the record: other ones may read it.
        checksums: SHA-256 of every file below the folder by its path there, once finished; see `verify`.
    """

    settings: IndexSettings
    corpus_sha256: str
    n_passages: int = 0
    n_bytes: int = 0
    dimension: int = 0
    finished: bool = False
    words: str = WORDS_VERSION
    versions: dict[str, str] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)

    @classmethod
    def begin(cls, settings: IndexSettings, corpus_sha256: str) -> Manifest:
        """Make the manifest of a build that begins now."""
        return cls(settings, corpus_sha256, versions=_versions())

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest in one step."""
        with new_file(IndexFolder(folder).manifest) as unfinished:
            unfinished.write_text(json.dumps({"format": _FORMAT, **asdict(self)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of an index folder, finished or not.

        Raises:
            IndexMismatch: there is none, it is damaged, or another version of a2tgpo wrote it.
        """
        path = IndexFolder(folder).manifest
        if not path.is_file():
            raise IndexMismatch(f"{folder} is no index; build one with a2tgpo index CORPUS -o {folder}")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if (found := data.pop("format")) == _FORMAT:
                return cls(**data | {"settings": IndexSettings.parse(data["settings"])})
        except (ValueError, TypeError, KeyError, AttributeError) as failure:
            raise IndexMismatch(
                f"{path} is damaged ({failure}); delete the folder and build the index again"
            ) from failure
        raise IndexMismatch(
            f"{folder} has format {found} and this version of a2tgpo reads {_FORMAT}; "
            "delete the folder and build the index again"
        )


def checksums(at: IndexFolder) -> dict[str, str]:
    """Return the SHA-256 of every file of an index but its manifest, by its path in the folder; reads them whole."""
    parts = (path for folder in (at.passages, at.bm25, at.dense) for path in sorted(folder.rglob("*")))
    return {path.relative_to(at.root).as_posix(): _sha256(path) for path in parts if path.is_file()}


def verify(folder: str | Path) -> int:
    """Read every file of a finished index, compare its checksum with the manifest's, and return the number of files.

    Raises:
        IndexMismatch: the folder is no finished index, has no checksums, or a file is missing, new or not as it was
            written; names it.
    """
    at = IndexFolder(Path(folder))
    manifest = Manifest.read(at.root)
    if not manifest.finished:
        raise IndexMismatch(f"{folder} is not finished; run the same a2tgpo index command again, it goes on")
    if not manifest.checksums:
        raise IndexMismatch(f"{folder} was built before checksums were kept; build the index again to have them")
    found = checksums(at)
    differing = sorted(path for path, _ in manifest.checksums.items() ^ found.items())
    if differing:
        raise IndexMismatch(
            f"{folder} is not what was built: {', '.join(dict.fromkeys(differing))} missing, new or changed; "
            "delete the folder and build the index again"
        )
    return len(found)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
