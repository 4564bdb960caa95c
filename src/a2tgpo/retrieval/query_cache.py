"""Keep answered queries on disk, for clients of a retrieval server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.retrieval.retriever import Hit

# Part of every key: raise it when the form of the entries changes.
_FORMAT = 1


class QueryCache:
    """Keep hits by (index, k, query) in a diskcache folder; safe for threads and processes.

    Raises:
        RetrieverError: diskcache is missing, or the folder cannot be used; every method may raise the latter.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            import diskcache
        except ModuleNotFoundError as missing:
            raise RetrieverError("cache_dir needs diskcache; pip install 'a2tgpo[server]'") from missing
        self._folder = folder
        self._failures = (diskcache.Timeout, sqlite3.Error, OSError)
        with self._usable():
            self._entries = diskcache.Cache(str(folder))

    def get(self, index: str, k: int, queries: Sequence[str]) -> dict[str, list[Hit]]:
        """Return the hits of those queries that were answered before."""
        with self._usable():
            entries = {query: self._entries.get(_key(index, k, query)) for query in queries}
        return {query: _hits(entry) for query, entry in entries.items() if entry is not None}

    def put(self, index: str, k: int, found: Mapping[str, Sequence[Hit]], url: str) -> None:
        """Keep the answers, all or none, and that `url` served `index`."""
        with self._usable(), self._entries.transact():
            self._entries.set(_key("url", 0, url), index)
            for query, hits in found.items():
                self._entries.set(_key(index, k, query), _entry(hits))

    def last_index(self, url: str) -> str | None:
        """Return the index that `url` served when it last answered."""
        with self._usable():
            index: str | None = self._entries.get(_key("url", 0, url))
        return index

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            yield
        except self._failures as failure:
            raise RetrieverError(
                f"the cache {self._folder} cannot be used ({type(failure).__name__}: {failure}); "
                "delete it or give another cache_dir"
            ) from failure


def _key(index: str, k: int, query: str) -> str:
    return json.dumps([_FORMAT, index, k, query])


def _entry(hits: Sequence[Hit]) -> str:
    return json.dumps([[hit.passage.id, hit.passage.title, hit.passage.text, hit.score] for hit in hits])


def _hits(entry: str) -> list[Hit]:
    return [Hit(Passage(identifier, title, text), score) for identifier, title, text, score in json.loads(entry)]
