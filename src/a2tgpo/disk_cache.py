"""Keep answers of servers on disk, in an SQLite file that threads and processes share."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from a2tgpo.errors import A2TGPOError

MOST_BYTES = 1 << 30
_WAIT_S = 60.0  # for another process that writes


class DiskCache:
    """Open `folder/name` with `tables`, one of which is `answers` with a column `number INTEGER PRIMARY KEY`.

    Nothing that is read from the folder is executed, so one that somebody else filled can be used.

    Args:
        folder: made where it is missing.
        name: of the file; another one when the form of the entries changes.
        tables: SQL that creates what is missing.
        error: what is raised for a folder that cannot be used; every method may raise it.
        most_bytes: of text, beyond which `trim` drops the oldest answers.
    """

    def __init__(
        self, folder: str | Path, name: str, tables: str, error: type[A2TGPOError], most_bytes: int = MOST_BYTES
    ) -> None:
        self._folder = Path(folder)
        self._error = error
        self._most_bytes = most_bytes
        self._one_at_a_time = threading.Lock()
        with self.usable():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(self._folder / name, timeout=_WAIT_S, check_same_thread=False)
            self._file.execute("PRAGMA trusted_schema = OFF")
            self._file.execute("PRAGMA journal_mode = WAL")
            self._file.execute("PRAGMA synchronous = NORMAL")
            self._file.executescript(tables)

    @contextmanager
    def usable(self) -> Iterator[None]:
        """Hold the file for one thread, and say of a failure which folder it is about."""
        try:
            with self._one_at_a_time:
                yield
        except (sqlite3.Error, OSError, ValueError, TypeError) as failure:
            raise self._error(
                f"the cache {self._folder} cannot be used ({type(failure).__name__}: {failure}); "
                "delete it or give another cache_dir"
            ) from failure

    def trim(self) -> None:
        """Drop the older half of the answers where there are too many bytes of them."""
        pragmas = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(self._file.execute(f"PRAGMA {name}").fetchone()[0]) for name in pragmas)
        if (pages - free) * size > self._most_bytes:
            self._file.execute(
                "DELETE FROM answers WHERE number <= (SELECT max(number) + min(number) FROM answers) / 2"
            )
