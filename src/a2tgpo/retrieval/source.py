"""Open a retriever from what a user names: a server's address or an index folder, checked that it fits together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from a2tgpo.errors import IndexMismatch, RecipeError
from a2tgpo.retrieval.bm25 import BM25Ranker
from a2tgpo.retrieval.client import HTTPRetriever
from a2tgpo.retrieval.corpus import corpus_fingerprint
from a2tgpo.retrieval.dense import DenseRanker, check_sizes, open_faiss
from a2tgpo.retrieval.encoder import Encoder, check_probe
from a2tgpo.retrieval.manifest import IndexFolder, Manifest
from a2tgpo.retrieval.passage_store import PassageStore
from a2tgpo.retrieval.retriever import FusedRanker, PassageRetriever, Ranker, Retriever
from a2tgpo.retrieval.settings import DenseSettings
from a2tgpo.retrieval.words import WORDS_VERSION


def open_retriever(
    source: str, timeout_s: float = 20.0, *, corpus: str | None = None, cache: str | None = None
) -> Retriever:
    """Make an HTTP client for an address that begins with http:// or https://, else open the index folder `source`.

    A request to the server may take `timeout_s` seconds, and what it answered is kept in the folder `cache` (see
    `HTTPRetriever`). An index must have been built from `corpus`, where one is given.

    Raises:
        IndexMismatch: see `open_index`.
        RecipeError: a library is missing, or a cache is given for an index.
    """
    if source.startswith(("http://", "https://")):
        return HTTPRetriever(source, timeout_s=timeout_s, cache_dir=cache)
    if cache is not None:
        raise RecipeError(f"search_cache={cache!r}: what an index on disk finds is not cached; leave it out")
    return open_index(source, corpus=corpus)


def open_index(
    folder: str | Path,
    *,
    corpus: str | Path | None = None,
    encoder: str | None = None,
    effort: int | None = None,
) -> PassageRetriever:
    """Open the retriever of a folder that `build_index` wrote. Passages, postings and vectors stay on disk.

    Args:
        folder: the index folder.
        corpus: the corpus file, where it is at hand: the index must have been built from it.
        encoder: Hub name or folder of the encoder here, where it is not the one that the manifest names.
        effort: of an hnsw or ivfpq index, see `DenseRanker`.

    Raises:
        IndexMismatch: the folder is no index or an unfinished one; or passages, postings, vectors, encoder, corpus or
            versions do not fit each other. Says what differs.
        RecipeError: a library is missing.
        ValueError: `encoder` or `effort` for an index that has none.
    """
    at = IndexFolder(Path(folder))
    manifest = Manifest.read(at.root)
    if not manifest.finished:
        raise IndexMismatch(f"{folder} is not finished; run the same a2tgpo index command again, it goes on")
    if corpus is not None and (found := corpus_fingerprint(corpus)) != manifest.corpus_sha256:
        raise IndexMismatch(
            f"{folder} was built from another corpus than {corpus}: sha256 {manifest.corpus_sha256}, not {found}; "
            "build an index of this one"
        )
    store = PassageStore(at.passages)
    if (len(store), store.n_bytes) != (manifest.n_passages, manifest.n_bytes):
        raise IndexMismatch(
            f"{at.passages} holds {len(store):,} passages of {store.n_bytes:,} bytes and {manifest.n_passages:,} of "
            f"{manifest.n_bytes:,} were indexed; delete the folder and build the index again"
        )
    rankers: list[Ranker] = []
    if manifest.settings.bm25 is not None:
        rankers.append(_open_bm25(at, manifest))
    if (dense := manifest.settings.dense) is not None:
        rankers.append(_open_dense(at, manifest, dense if encoder is None else replace(dense, encoder=encoder), effort))
    elif encoder is not None or effort is not None:
        raise ValueError(f"encoder={encoder!r}, effort={effort}: {folder} is a bm25 index, which has neither")
    return PassageRetriever(store, rankers[0] if len(rankers) == 1 else FusedRanker(rankers))


def _open_bm25(at: IndexFolder, manifest: Manifest) -> BM25Ranker:
    if manifest.words != WORDS_VERSION:
        raise IndexMismatch(
            f"{at.root} counts words by rules {manifest.words} (ours/PyStemmer) and this is {WORDS_VERSION}; "
            "delete the folder and build the index again, or install the a2tgpo and PyStemmer it was built with"
        )
    try:
        ranker = BM25Ranker.load(at.bm25, mmap=True)
    except (OSError, EOFError, ValueError, KeyError) as failure:
        raise IndexMismatch(
            f"{at.bm25} is damaged ({failure}); delete the folder and build the index again"
        ) from failure
    if ranker.n_passages != manifest.n_passages:
        raise IndexMismatch(
            f"{at.bm25} holds {ranker.n_passages:,} passages and {manifest.n_passages:,} were stored; "
            "delete the folder and build the index again"
        )
    return ranker


def _open_dense(at: IndexFolder, manifest: Manifest, settings: DenseSettings, effort: int | None) -> DenseRanker:
    index = open_faiss(at.vectors)
    check_sizes(index, manifest.n_passages, manifest.dimension, at.vectors)
    encoder = Encoder(settings)
    check_probe(encoder, at)
    return DenseRanker(index, encoder, effort)
