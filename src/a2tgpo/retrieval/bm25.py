"""Rank passages in memory or on disk by BM25."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from a2tgpo.errors import CorpusError
from a2tgpo.files import new_folder
from a2tgpo.retrieval.corpus import Passage, corpus_fingerprint, read_corpus
from a2tgpo.retrieval.retriever import PassageRetriever, Ranking
from a2tgpo.retrieval.words import WORDS_VERSION, CorpusWords, make_stem, terms, without_jax

with without_jax():
    import bm25s

logger = logging.getLogger(__name__)


class BM25Ranker:
    """Rank passages by BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over English word stems.

    A passage must share a word with the query to be found, and scores are positive. Stop words do not count, but a
    title or a query without any other word is taken as one word: "it" finds the film "It" and "The The" the band,
    while "the" finds nothing.
    """

    def __init__(self, index: bm25s.BM25) -> None:
        self.index = index

    @property
    def n_passages(self) -> int:
        return int(self.index.scores["num_docs"])

    def rank(self, queries: Sequence[str], k: int) -> list[Ranking]:
        stem = make_stem()
        return [self._rank_one(terms(query, stem), k) for query in queries]

    def _rank_one(self, query: list[str], k: int) -> Ranking:
        known = self.index.get_tokens_ids(query)
        if not known:
            return []
        scores = self.index.get_scores_from_ids(known)
        return [(int(position), float(scores[position])) for position in _best(scores, k)]

    @classmethod
    def of(cls, passages: Iterable[Passage], title_weight: int = 1) -> BM25Ranker:
        """Index passages, one after another; their words wait in a temporary file.

        Raises:
            CorpusError: there is no passage, or none holds a word.
            ValueError: `title_weight` is below 1.
        """
        check_title_weight(title_weight)
        with tempfile.TemporaryFile() as scratch:
            words = CorpusWords(passages, title_weight, scratch)
            if not len(words.ids):
                raise CorpusError("passages is empty; give at least one passage")
            if not words.vocab:
                raise CorpusError(f"none of the {len(words.ids)} passages holds a word; check the corpus's text")
            # scipy sorts the postings in linear time and half the memory of bm25s's own way.
            index = bm25s.BM25(backend="numpy", csc_backend="scipy")
            index.index(words, create_empty_token=False, show_progress=False)
        return cls(index)

    def save(self, folder: Path) -> None:
        """Write beside `folder` and renames, so that `folder` is complete whenever it exists."""
        with new_folder(folder) as unfinished:
            self.index.save(unfinished, show_progress=False)

    @classmethod
    def load(cls, folder: Path, *, mmap: bool = False) -> BM25Ranker:
        """Read what `save` wrote; with `mmap` the postings stay on disk and only the vocabulary is in memory.

        Raises:
            OSError, EOFError, ValueError: a file is missing or damaged.
        """
        return cls(bm25s.BM25.load(folder, mmap=mmap, show_progress=False))


class BM25Retriever(PassageRetriever):
    """Search passages in memory by BM25. Make one with `build` (a corpus file, index cached) or `from_passages`."""

    ranker: BM25Ranker

    @classmethod
    def build(
        cls, corpus_path: str | Path, *, cache_dir: str | Path | None = None, title_weight: int = 1
    ) -> BM25Retriever:
        """Index a corpus file, or loads the index an earlier call left on disk for the very same content.

        Args:
            corpus_path: a file that `read_corpus` reads.
            cache_dir: where indexes are kept, `$XDG_CACHE_HOME/a2tgpo/bm25` (or `~/.cache/a2tgpo/bm25`) by
                default. It may be deleted at any time.
            title_weight: how many times the title counts; 1 or more.

        Raises:
            CorpusError: see `read_corpus`; or the cache cannot be written, or not be read.
            ValueError: `title_weight` is below 1.
        """
        check_title_weight(title_weight)
        passages = read_corpus(corpus_path)
        cache_dir = _default_cache_dir() if cache_dir is None else Path(cache_dir)
        folder = cache_dir / _cache_key(corpus_fingerprint(corpus_path), title_weight)
        if folder.is_dir():
            return cls(passages, _load_cached(folder))
        logger.info("building the BM25 index of %d passages", len(passages))
        ranker = BM25Ranker.of(passages, title_weight)
        try:
            ranker.save(folder)
        except OSError as failure:
            raise CorpusError(
                f"the index cannot be cached under {cache_dir} ({failure.strerror}); "
                "give a cache_dir that can be written"
            ) from failure
        return cls(passages, ranker)

    @classmethod
    def from_passages(cls, passages: Sequence[Passage], title_weight: int = 1) -> BM25Retriever:
        """Index passages that are in memory already; nothing is cached. Raises as `BM25Ranker.of`."""
        passages = list(passages)
        return cls(passages, BM25Ranker.of(passages, title_weight))


def check_title_weight(title_weight: int) -> None:
    """Raise ValueError below 1."""
    if title_weight < 1:
        raise ValueError(f"title_weight={title_weight}: must be at least 1 (1 counts the title like the text)")


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        kth_best = np.partition(scores[found], -k)[-k]
        found = found[scores[found] >= kth_best]
    return found[np.argsort(-scores[found], kind="stable")][:k]


def _cache_key(fingerprint: str, title_weight: int) -> str:
    parts = (fingerprint, title_weight, WORDS_VERSION, bm25s.__version__)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _load_cached(folder: Path) -> BM25Ranker:
    try:
        return BM25Ranker.load(folder)
    except (OSError, EOFError, ValueError) as failure:
        raise CorpusError(f"the cached index {folder} is damaged ({failure}); delete it to build it anew") from failure


def _default_cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "a2tgpo" / "bm25"
