"""BM25 over an in-memory corpus, with the index cached on disk."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import Stemmer

from a2tgpo.errors import CorpusError
from a2tgpo.retrieval.base import Hit
from a2tgpo.retrieval.corpus import Passage, corpus_fingerprint, read_corpus


@contextmanager
def _without_jax() -> Iterator[None]:
    """Hides JAX from an import. bm25s runs a JAX kernel as it is imported, which reserves most of a GPU."""
    loaded = sys.modules.get("jax.lax")
    sys.modules["jax.lax"] = None  # type: ignore[assignment]  # how Python spells "this import fails"
    try:
        yield
    finally:
        del sys.modules["jax.lax"]
        if loaded is not None:
            sys.modules["jax.lax"] = loaded


with _without_jax():
    import bm25s
    from bm25s.stopwords import STOPWORDS_EN

logger = logging.getLogger(__name__)

# Single characters are words too ("Malcolm X"), unless they follow an apostrophe ("Ann's").
_WORD = re.compile(r"\w\w+|(?<!['’])\w")
# "Will" names people: as a stop word it would leave "Will Orr" the same as every other Orr.
_STOP_WORDS = frozenset(STOPWORDS_EN) - {"will"}
# Part of the cache key: raise it when the words of a passage or the layout of the cache change.
_INDEX_FORMAT = 1


class BM25Retriever:
    """Ranks passages by BM25 (Lucene's variant, k1 = 1.5, b = 0.75) over English word stems.

    Make one with `build` (a corpus file, index cached) or `from_passages`. A passage must share a word with
    the query to be a hit. Stop words do not count, but a title or a query without any other word is taken as
    one word: "it" finds the film "It" and "The The" the band, while "the" finds nothing.
    """

    def __init__(self, passages: Sequence[Passage], index: bm25s.BM25) -> None:
        self._passages = passages
        self._index = index

    @classmethod
    def build(
        cls, corpus_path: str | Path, *, cache_dir: str | Path | None = None, title_weight: int = 1
    ) -> BM25Retriever:
        """Indexes a corpus file, or loads the index an earlier call left on disk for the very same content.

        Args:
            corpus_path: a file that `read_corpus` reads.
            cache_dir: where indexes are kept, `$XDG_CACHE_HOME/a2tgpo/bm25` (or `~/.cache/a2tgpo/bm25`) by
                default. It may be deleted at any time.
            title_weight: how many times the title counts; 1 or more.

        Raises:
            CorpusError: see `read_corpus`; or the cache cannot be written, or not be read.
            ValueError: `title_weight` is below 1.
        """
        _check_title_weight(title_weight)
        passages = read_corpus(corpus_path)
        cache_dir = _default_cache_dir() if cache_dir is None else Path(cache_dir)
        folder = cache_dir / _cache_key(corpus_fingerprint(corpus_path), title_weight)
        if folder.is_dir():
            return cls(passages, _load(folder))
        logger.info("building the BM25 index of %d passages", len(passages))
        index = _build_index(passages, title_weight)
        try:
            _save(index, folder)
        except OSError as failure:
            raise CorpusError(
                f"the index cannot be cached under {cache_dir} ({failure.strerror}); "
                "give a cache_dir that can be written"
            ) from failure
        return cls(passages, index)

    @classmethod
    def from_passages(cls, passages: Sequence[Passage], title_weight: int = 1) -> BM25Retriever:
        """Indexes passages that are in memory already; nothing is cached."""
        _check_title_weight(title_weight)
        passages = list(passages)
        if not passages:
            raise CorpusError("passages is empty; give at least one passage")
        return cls(passages, _build_index(passages, title_weight))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages for each query, best first; passages of equal score keep the corpus's order.

        Args:
            queries: any number of query strings; an empty one has no hit.
            k: most hits per query, 1 or more; may exceed the number of passages.

        Returns:
            One list per query, empty when no passage shares a word with it. Scores are positive.
        """
        if k < 1:
            raise ValueError(f"k={k}: must be at least 1")
        if isinstance(queries, str):
            raise ValueError(f"queries={queries!r} is one string; give a list of queries")
        stem = Stemmer.Stemmer("english").stemWord  # not shared: a stemmer serves one thread at a time
        return [self._search_one(_terms(query, stem), k) for query in queries]

    def _search_one(self, terms: list[str], k: int) -> list[Hit]:
        known = self._index.get_tokens_ids(terms)
        if not known:
            return []
        scores = self._index.get_scores_from_ids(known)
        return [Hit(self._passages[i], float(scores[i])) for i in _best(scores, k)]


def _check_title_weight(title_weight: int) -> None:
    if title_weight < 1:
        raise ValueError(f"title_weight={title_weight}: must be at least 1 (1 counts the title like the text)")


def _cache_key(fingerprint: str, title_weight: int) -> str:
    parts = (fingerprint, title_weight, _INDEX_FORMAT, bm25s.__version__, Stemmer.version())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _terms(text: str, stem: Callable[[str], str]) -> list[str]:
    words = _WORD.findall(text.lower())
    content_words = [word for word in words if word not in _STOP_WORDS]
    if words and not content_words:
        return [" ".join(words).upper()]  # in capitals no stem can equal it: "its" has the stem "it"
    return [stem(word) for word in content_words]


def _build_index(passages: Sequence[Passage], title_weight: int) -> bm25s.BM25:
    stem = cache(Stemmer.Stemmer("english").stemWord)
    vocabulary: dict[str, int] = {}
    ids = [
        [
            vocabulary.setdefault(term, len(vocabulary))
            for term in title_weight * _terms(passage.title, stem) + _terms(passage.text, stem)
        ]
        for passage in passages
    ]
    if not vocabulary:
        raise CorpusError(f"none of the {len(passages)} passages holds a word; check the corpus's text")
    index = bm25s.BM25(backend="numpy")
    index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    return index


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        kth_best = np.partition(scores[found], -k)[-k]
        found = found[scores[found] >= kth_best]
    return found[np.argsort(-scores[found], kind="stable")][:k]


def _save(index: bm25s.BM25, folder: Path) -> None:
    """Writes beside `folder` and renames, so that `folder` is complete whenever it exists."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=folder.parent) as scratch:
        complete = Path(scratch) / "index"
        index.save(complete, show_progress=False)
        try:
            complete.rename(folder)
        except OSError:
            # Another process finished the same index first; its content is the same.
            if not folder.is_dir():
                raise


def _load(folder: Path) -> bm25s.BM25:
    try:
        return bm25s.BM25.load(folder, show_progress=False)
    except (OSError, EOFError, ValueError) as failure:
        raise CorpusError(f"the cached index {folder} is damaged ({failure}); delete it to build it anew") from failure


def _default_cache_dir() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "a2tgpo" / "bm25"
