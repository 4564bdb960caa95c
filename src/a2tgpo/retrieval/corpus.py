"""Read a corpus of passages in the FlashRAG and Search-R1 form."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2tgpo.errors import CorpusError
from a2tgpo.files import read_jsonl


@dataclass(frozen=True, slots=True)
class Passage:
    """Hold one unit of retrieval. `title` is empty where the corpus has none."""

    id: str
    title: str
    text: str


def read_corpus(path: str | Path) -> list[Passage]:
    """Read every passage of a JSONL or gzipped JSONL file, in its order.

    A line is `{"id", "contents"}`, where the first line of `contents` is the title, in double quotes or not
    (contents of a single line has no title), or `{"id", "title", "text"}`. Integer ids become strings.

    Raises:
        CorpusError: the file cannot be read or holds no passage, a line is not a JSON object, lacks a field,
            or repeats an id; names the file and the line.
    """
    path = Path(path)
    passages: list[Passage] = []
    first_line: dict[str, int] = {}
    for number, passage in stream_corpus(path):
        earlier = first_line.setdefault(passage.id, number)
        if earlier != number:
            raise repeated_id(path, passage.id, earlier, number)
        passages.append(passage)
    return passages


def stream_corpus(path: str | Path) -> Iterator[tuple[int, Passage]]:
    """Yield (line number from 1, passage), one after another, and keeps none: ids may repeat unnoticed.

    Raises:
        CorpusError: as `read_corpus`, but for repeated ids.
    """
    path = Path(path)
    empty = True
    for number, row in read_jsonl(path, CorpusError):
        empty = False
        yield number, passage_of(row, f"{path}, line {number}")
    if empty:
        raise CorpusError(f'{path} holds no passage; write one {{"id", "contents"}} object per line')


def repeated_id(path: str | Path, identifier: str, earlier: int, number: int) -> CorpusError:
    """Make the error of two lines with one id."""
    return CorpusError(
        f'{path}, line {number}: id "{identifier}" is already on line {earlier}; give every passage its own id'
    )


def corpus_fingerprint(path: str | Path) -> str:
    """Return the SHA-256 of the file's bytes as 64 hexadecimal digits, read in pieces."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as failure:
        raise CorpusError(f"{path} cannot be read ({failure.strerror}); give the path of a file") from failure


def passage_of(row: dict[str, Any], place: str) -> Passage:
    """Read the passage that one object of a corpus states, in either form that `read_corpus` accepts.

    Raises:
        CorpusError: a field is missing or of the wrong kind; the message begins with `place`.
    """
    identifier = row.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, (str, int)) or identifier == "":
        raise CorpusError(f'{place}: "id" is {identifier!r}; give every passage a string or an integer as "id"')
    if "contents" in row:
        title, text = _split_title(_string(row, "contents", place))
    elif "text" in row:
        title, text = _string(row, "title", place, default="").strip(), _string(row, "text", place)
    else:
        raise CorpusError(
            f'{place}: neither "contents" nor "text" among the fields {sorted(row)}; '
            'write {"id", "contents"} or {"id", "title", "text"}'
        )
    if not title and not text.strip():
        raise CorpusError(f"{place}: the passage is empty; remove the line")
    return Passage(str(identifier), title, text.strip())


def _string(row: dict[str, Any], field: str, place: str, default: str | None = None) -> str:
    value = row.get(field, default)
    if not isinstance(value, str):
        raise CorpusError(f'{place}: "{field}" is {value!r}; it must be a string')
    return value


def _split_title(contents: str) -> tuple[str, str]:
    first, newline, rest = contents.partition("\n")
    if not newline:
        return "", contents
    title = first.strip()
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1].strip()
    return title, rest
