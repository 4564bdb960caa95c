"""Files and folders that are complete whenever they exist, however the process that writes them ends."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = "unfinished-"
"""How the names of half-written files and folders begin."""


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` once the block has ended without an error."""
    unfinished = path.with_name(UNFINISHED + path.name)
    unfinished.unlink(missing_ok=True)  # never written into: it may be a link to somebody's file
    yield unfinished
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())  # a rename may reach the disk before the content does
    unfinished.replace(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `folder` once the block has ended without an error.

    Where another process has finished the same folder first, that one stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=folder.parent) as scratch:
        complete = Path(scratch) / folder.name
        complete.mkdir()
        yield complete
        try:
            complete.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
