"""Reads JSON Lines, plain or gzipped, and says on which line something is wrong."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from a2tgpo.errors import A2TGPOError

_GZIP_MAGIC = b"\x1f\x8b"


def read_jsonl(path: Path, error: type[A2TGPOError]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) for every line that is not blank.

    Gzip is recognised by its content, so a file that lost its `.gz` is read too.

    Raises:
        error: the file cannot be opened or unpacked, or a line is not a JSON object; names file and line.
    """
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, _parse(line, f"{path}, line {number}", error)
    except (EOFError, zlib.error, gzip.BadGzipFile) as damage:
        raise error(f"{path}: the gzip data is damaged after line {number}; download or compress it again") from damage
    except OSError as failure:
        raise error(f"{path} cannot be read ({failure.strerror}); give the path of a file") from failure


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as file:
        zipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return gzip.open(path) if zipped else path.open("rb")


def _parse(line: bytes, place: str, error: type[A2TGPOError]) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as failure:
        raise error(f"{place}: not JSON ({failure}); write one JSON object per line, in UTF-8") from failure
    if not isinstance(value, dict):
        raise error(f"{place}: a JSON {type(value).__name__}, not an object; write one JSON object per line")
    return value
