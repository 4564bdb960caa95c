"""Keep answered queries on disk, for clients of a retrieval server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from a2tgpo.disk_cache import MOST_BYTES, DiskCache
from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.retrieval.retriever import Hit

_FILE = "answers-1.sqlite"  # another number when the form of the entries changes
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, index_name TEXT, k INTEGER, query TEXT, hits TEXT, UNIQUE (index_name, k, query)
);
CREATE TABLE IF NOT EXISTS served (url TEXT PRIMARY KEY, index_name TEXT);
"""


class QueryCache(DiskCache):
    """Keep hits by (index, k, query) as JSON in an SQLite file; safe for threads and processes.

    Beyond `most_bytes` of text the oldest answers go.

    Raises:
        RetrieverError: the folder cannot be used; every method may raise it.
    """

    def __init__(self, folder: str | Path, most_bytes: int = MOST_BYTES) -> None:
        super().__init__(folder, _FILE, _TABLES, RetrieverError, most_bytes)

    def get(self, index: str, k: int, queries: Sequence[str]) -> dict[str, list[Hit]]:
        """Return the hits of those queries that were answered before."""
        wanted = "SELECT hits FROM answers WHERE index_name = ? AND k = ? AND query = ?"
        with self.usable():
            rows = {query: self._file.execute(wanted, (index, k, query)).fetchone() for query in queries}
            return {query: _hits(row[0]) for query, row in rows.items() if row is not None}

    def put(self, index: str, k: int, found: Mapping[str, Sequence[Hit]], url: str) -> None:
        """Keep the answers, all or none, and that `url` served `index`."""
        rows = [(index, k, query, _entry(hits)) for query, hits in found.items()]
        with self.usable(), self._file:
            self._file.execute("INSERT OR REPLACE INTO served VALUES (?, ?)", (url, index))
            self._file.executemany("INSERT OR REPLACE INTO answers VALUES (NULL, ?, ?, ?, ?)", rows)
            self.trim()

    def last_index(self, url: str) -> str | None:
        """Return the index that `url` served when it last answered."""
        with self.usable():
            row = self._file.execute("SELECT index_name FROM served WHERE url = ?", (url,)).fetchone()
        return None if row is None else str(row[0])


def _entry(hits: Sequence[Hit]) -> str:
    return json.dumps([[hit.passage.id, hit.passage.title, hit.passage.text, hit.score] for hit in hits])


def _hits(entry: str) -> list[Hit]:
    rows = [
        (str(identifier), str(title), str(text), float(score)) for identifier, title, text, score in json.loads(entry)
    ]
    return [Hit(Passage(identifier, title, text), score) for identifier, title, text, score in rows]
