"""Read a corpus of passages in the FlashRAG and Search-R1 form."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2tgpo.errors import CorpusError
from a2tgpo.files import read_jsonl

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Passage:
    """Hold one unit of retrieval. `title` is empty where the corpus has none."""

    id: str
    title: str
    text: str

    @property
    def is_blank(self) -> bool:
        """Tell a passage that says nothing, which no search result shows."""
        return not self.title.strip() and not self.text.strip()


def read_corpus(path: str | Path) -> list[Passage]:
    """Read every passage of a JSONL or gzipped JSONL file, in its order.

    A line is `{"id", "contents"}`, where the first line of `contents` is the title, in double quotes or not
    (contents of a single line has no title), or `{"id", "title", "text"}`, where the title may be null; BEIR's `_id` is
    an id. Ids that are numbers become strings. Half a surrogate pair becomes U+FFFD. Lines whose passage is empty are
    left out, with one warning that counts them.

    Raises:
        CorpusError: the file cannot be read or holds no passage, a line is not a JSON object, lacks a field, has one of
            another type, or repeats an id; names the file and the line.
    """
    path = Path(path)
    passages: list[Passage] = []
    first_line: dict[str, int] = {}
    for number, passage in stream_corpus(path):
        earlier = first_line.setdefault(passage.id, number)
        if earlier != number:
            raise repeated_id(path, passage.id, earlier, number)
        if not passage.is_blank:
            passages.append(passage)
    return passages


def stream_corpus(path: str | Path) -> Iterator[tuple[int, Passage]]:
    """Yield (line number from 1, passage), one after another, and keep none: ids may repeat unnoticed.

    Empty passages are yielded too, since somebody's vectors may be counted by the line; see `Passage.is_blank`.

    Raises:
        CorpusError: as `read_corpus`, but for repeated ids.
    """
    path = Path(path)
    n_found, blank_lines = 0, []
    for number, row in read_jsonl(path, CorpusError):
        passage = passage_of(row, f"{path}, line {number}")
        n_found += 1
        if passage.is_blank:
            blank_lines.append(number)
        yield number, passage
    if blank_lines:
        logger.warning(
            "%s: %d empty passages, the first on line %d; no search finds them", path, len(blank_lines), blank_lines[0]
        )
    if n_found == len(blank_lines):
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
    identifier = _identifier(row, place)
    if "contents" in row and (row["contents"] is not None or "text" not in row):
        title, text = _split_title(_string(row, "contents", place))
    elif "text" in row:
        title = "" if row.get("title") is None else _string(row, "title", place).strip()
        text = _string(row, "text", place)
    else:
        raise CorpusError(
            f'{place}: neither "contents" nor "text" among the fields {sorted(row)}; '
            'write {"id", "contents"} or {"id", "title", "text"}'
        )
    return Passage(identifier, title, text.strip())


def _identifier(row: dict[str, Any], place: str) -> str:
    value = row.get("id", row.get("_id"))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise CorpusError(f'{place}: "id" is {value!r}; give every passage a string or a whole number as "id" or "_id"')
    return str(value)


def _string(row: dict[str, Any], field: str, place: str) -> str:
    value = row[field]
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
