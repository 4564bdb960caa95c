"""Read files of JSON, and write files and folders that are complete whenever they exist."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from a2tgpo.errors import A2TGPOError

UNFINISHED = "unfinished-"
"""Beginning of the names of half-written files and folders."""

_GZIP_MAGIC = b"\x1f\x8b"
# An escape, or three bytes that UTF-8 does not allow and json lets pass.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")


def parse_json(data: bytes) -> Any:
    """Parse JSON in UTF-8, with or without a byte order mark, and repair the text in it as `whole_text` does.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(data)
    return _whole(value) if _SURROGATE.search(data) else value


def whole_text(text: str) -> str:
    """Return `text` with U+FFFD for every half of a surrogate pair, which nothing could encode or tokenise.

    Halves that stand together become the character that they are.
    """
    return text if is_whole(text) else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def is_whole(text: str) -> bool:
    """Tell whether `text` can be encoded: it holds no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {whole_text(name): _whole(item) for name, item in value.items()}
    return value


def read_jsonl(path: Path, error: type[A2TGPOError]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) for every line that is not blank.

    Gzip is recognised by its content, so a file that lost its `.gz` is read too. Text is repaired as `parse_json` does.

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


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, which takes the place of `path` once the block has ended without an error."""
    unfinished = path.with_name(UNFINISHED + path.name)
    unfinished.unlink(missing_ok=True)  # never written into: it may be a link to somebody's file
    yield unfinished
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())  # a rename may reach the disk before the content does
    unfinished.replace(path)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `folder` once the block has ended without an error.

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


def _open(path: Path) -> gzip.GzipFile | io.BufferedReader:
    with path.open("rb") as file:
        zipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
    return gzip.open(path) if zipped else path.open("rb")


def _parse(line: bytes, place: str, error: type[A2TGPOError]) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as failure:
        raise error(f"{place}: not JSON ({failure}); write one JSON object per line, in UTF-8") from failure
    if not isinstance(value, dict):
        raise error(f"{place}: a JSON {type(value).__name__}, not an object; write one JSON object per line")
    return value
