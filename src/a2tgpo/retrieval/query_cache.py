"""Keep answered queries on disk, for clients of a retrieval server."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from a2tgpo.errors import RetrieverError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.retrieval.retriever import Hit

_FILE = "answers-1.sqlite"  # another number when the form of the entries changes
_MOST_BYTES = 1 << 30
_WAIT_S = 60.0  # for another process that writes
_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY, index_name TEXT, k INTEGER, query TEXT, hits TEXT, UNIQUE (index_name, k, query)
);
CREATE TABLE IF NOT EXISTS served (url TEXT PRIMARY KEY, index_name TEXT);
"""


class QueryCache:
    """Keep hits by (index, k, query) as JSON in an SQLite file; safe for threads and processes.

    Nothing that is read from the folder is executed, so one that somebody else filled can be used. Beyond
    `most_bytes` of text the oldest answers go.

    Raises:
        RetrieverError: the folder cannot be used; every method may raise it.
    """

    def __init__(self, folder: str | Path, most_bytes: int = _MOST_BYTES) -> None:
        self._folder = Path(folder)
        self._most_bytes = most_bytes
        self._one_at_a_time = threading.Lock()
        with self._usable():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._folder / _FILE, timeout=_WAIT_S, check_same_thread=False)
            self._file.execute("PRAGMA trusted_schema = OFF")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.executescript(_TABLES)

    def get(self, index: str, k: int, queries: Sequence[str]) -> dict[str, list[Hit]]:
        """Return the hits of those queries that were answered before."""
        wanted = "SELECT hits FROM answers WHERE index_name = ? AND k = ? AND query = ?"
        with self._usable():
            rows = {query: self._file.execute(wanted, (index, k, query)).fetchone() for query in queries}
            return {query: _hits(row[0]) for query, row in rows.items() if row is not None}

    def put(self, index: str, k: int, found: Mapping[str, Sequence[Hit]], url: str) -> None:
        """Keep the answers, all or none, and that `url` served `index`."""
        rows = [(index, k, query, _entry(hits)) for query, hits in found.items()]
        with self._usable(), self._file:
            self._file.execute("INSERT OR REPLACE INTO served VALUES (?, ?)", (url, index))
            self._file.executemany("INSERT OR REPLACE INTO answers VALUES (NULL, ?, ?, ?, ?)", rows)
            if self._n_bytes() > self._most_bytes:
                self._file.execute(
                    "DELETE FROM answers WHERE number <= (SELECT max(number) + min(number) FROM answers) / 2"
                )

    def last_index(self, url: str) -> str | None:
        """Return the index that `url` served when it last answered."""
        with self._usable():
            row = self._file.execute("SELECT index_name FROM served WHERE url = ?", (url,)).fetchone()
        return None if row is None else str(row[0])

    def _n_bytes(self) -> int:
        pragmas = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(self._file.execute(f"PRAGMA {name}").fetchone()[0]) for name in pragmas)
        return (pages - free) * size

    @contextmanager
    def _usable(self) -> Iterator[None]:
        try:
            with self._one_at_a_time:
                yield
        except (sqlite3.Error, OSError, ValueError, TypeError) as failure:
            raise RetrieverError(
                f"the cache {self._folder} cannot be used ({type(failure).__name__}: {failure}); "
                "delete it or give another cache_dir"
            ) from failure


def _entry(hits: Sequence[Hit]) -> str:
    return json.dumps([[hit.passage.id, hit.passage.title, hit.passage.text, hit.score] for hit in hits])


def _hits(entry: str) -> list[Hit]:
    rows = [
        (str(identifier), str(title), str(text), float(score)) for identifier, title, text, score in json.loads(entry)
    ]
    return [Hit(Passage(identifier, title, text), score) for identifier, title, text, score in rows]
