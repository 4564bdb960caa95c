"""Build an index folder, and go on where an earlier build was stopped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from a2tgpo.errors import IndexMismatch
from a2tgpo.files import UNFINISHED
from a2tgpo.retrieval.bm25 import BM25Ranker
from a2tgpo.retrieval.corpus import corpus_fingerprint
from a2tgpo.retrieval.dense import build_faiss
from a2tgpo.retrieval.encoder import Encoder, record_probe
from a2tgpo.retrieval.manifest import IndexFolder, Manifest, checksums
from a2tgpo.retrieval.passage_store import PassageStore, passages_bar
from a2tgpo.retrieval.settings import IndexSettings
from a2tgpo.retrieval.vectors import AdoptedVectors, encode_corpus


def build_index(
    corpus: str | Path, folder: str | Path, settings: IndexSettings, *, faiss_index: str | Path | None = None
) -> Manifest:
    """Index a corpus file into a folder of its own, which then needs the file no more.

    Stages that an earlier call finished, and shards of vectors that it encoded, are not done again; a finished folder
    is left as it is. The folder can be opened only after the last stage.

    Args:
        corpus: a file that `read_corpus` reads; its passages go through memory one at a time.
        folder: a new folder, or one that an earlier call with the same arguments left unfinished.
        settings: what to build.
        faiss_index: a faiss index of this corpus by this encoder, such as Search-R1's `e5_Flat.index`, whose vectors
            are taken instead of encoding anew. One of the type that `settings` asks for is linked, or copied where
            that fails; a flat one is turned into any other type.

    Raises:
        CorpusError: see `read_corpus`.
        IndexMismatch: the folder belongs to another corpus, other settings or a build that is running; or `faiss_index`
            does not hold the vectors of this corpus by this encoder.
        RecipeError: a library is missing, or ivfpq cannot be built from so few passages.
        ValueError: `faiss_index` without a dense part.
    """
    if faiss_index is not None and settings.dense is None:
        raise ValueError(f"faiss_index={str(faiss_index)!r}: a bm25 index has no vectors; ask for dense or hybrid")
    at = IndexFolder(Path(folder))
    _check_ours(at)
    at.root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(at.lock, timeout=0):
            _remove_torn(at.root)
            manifest = _begin(Path(corpus), at, settings)
            if not manifest.finished:
                manifest = _build(Path(corpus), at, manifest, None if faiss_index is None else Path(faiss_index))
                manifest.write(at.root)
            shutil.rmtree(at.shards, ignore_errors=True)
            return manifest
    except Timeout:
        raise IndexMismatch(f"{folder} is being built by another process; wait for it") from None


def _check_ours(at: IndexFolder) -> None:
    """Raise IndexMismatch for a folder that holds anything but an index: nothing is written into it or deleted."""
    own = {at.lock.name, UNFINISHED + at.manifest.name}
    if at.manifest.exists():
        Manifest.read(at.root)
    elif at.root.exists() and (strangers := sorted({path.name for path in at.root.iterdir()} - own)):
        raise IndexMismatch(f"{at.root} is no index and holds {strangers[0]!r}; give a new or empty folder")


def _remove_torn(folder: Path) -> None:
    """Remove what a killed process left half written, which may be as large as the corpus."""
    for path in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _begin(corpus: Path, at: IndexFolder, settings: IndexSettings) -> Manifest:
    fingerprint = corpus_fingerprint(corpus)
    if at.manifest.exists() and any(part.exists() for part in (at.passages, at.bm25, at.vectors)):
        manifest = Manifest.read(at.root)
        differences = settings.differences(manifest.settings)
        if manifest.corpus_sha256 != fingerprint:
            differences.append(f"another corpus, of sha256 {manifest.corpus_sha256}, not {fingerprint}")
        if differences:
            state = "an index" if manifest.finished else "an unfinished index"
            raise IndexMismatch(
                f"{at.root} holds {state} of {'; '.join(differences)}; give a new folder or delete that one"
            )
        return manifest
    manifest = Manifest.begin(settings, fingerprint)
    manifest.write(at.root)
    return manifest


def _build(corpus: Path, at: IndexFolder, manifest: Manifest, faiss_index: Path | None) -> Manifest:
    settings = manifest.settings
    # First, because either may not be there: the rest can take hours.
    encoder = None if settings.dense is None else Encoder(settings.dense)
    adopted = faiss_index and settings.dense and AdoptedVectors.open(faiss_index, settings.dense.faiss_type)
    store = PassageStore(at.passages) if at.passages.is_dir() else PassageStore.write(corpus, at.passages)
    if settings.bm25 is not None and not at.bm25.is_dir():
        passages = passages_bar("counting words", store)
        BM25Ranker.of(passages, settings.bm25.title_weight).save(at.bm25)
    if settings.dense is not None and encoder is not None:
        record_probe(encoder, at)
        if not at.vectors.exists():
            if adopted:
                adopted.write(store, encoder, at.vectors)
            else:
                build_faiss(settings.dense.faiss_type, encode_corpus(store, encoder, at.shards), at.vectors)
        used = replace(settings.dense, query_prefix=encoder.query_prefix, passage_prefix=encoder.passage_prefix)
        manifest = replace(manifest, settings=replace(settings, dense=used), dimension=encoder.dimension)
    return replace(manifest, n_passages=len(store), n_bytes=store.n_bytes, finished=True, checksums=checksums(at))
