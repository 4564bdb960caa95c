"""Reading a corpus: the accepted forms, and an error with file and line for everything else."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from a2tgpo.errors import CorpusError
from a2tgpo.retrieval import Passage, corpus_fingerprint, read_corpus


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "passage"),
    [
        (
            {"id": "a", "contents": '"Selma Orr"\nBorn in Pell.\nDied in Tarn.'},
            ("Selma Orr", "Born in Pell.\nDied in Tarn."),
        ),
        ({"id": "a", "contents": "Selma Orr\nBorn in Pell."}, ("Selma Orr", "Born in Pell.")),
        ({"id": "a", "contents": '"Ode" to "Joy"\nA poem.'}, ('Ode" to "Joy', "A poem.")),
        ({"id": "a", "contents": "One line and no title."}, ("", "One line and no title.")),
        ({"id": "a", "title": "Zoë", "text": "A river."}, ("Zoë", "A river.")),
        ({"id": "a", "text": "No title."}, ("", "No title.")),
    ],
)
def test_forms(tmp_path: Path, row: dict[str, str], passage: tuple[str, str]) -> None:
    """Each accepted form of a line gives the title and the text that its publisher means."""
    assert read_corpus(write(tmp_path / "c.jsonl", row)) == [Passage("a", *passage)]


def test_integer_ids_become_strings_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    """Search-R1 numbers its passages; ids are strings here, and a final blank line is no passage."""
    path = tmp_path / "c.jsonl"
    path.write_text('{"id": 0, "contents": "\\"A\\"\\nx"}\n\n{"id": 1, "contents": "\\"B\\"\\ny"}\n\n')
    assert [passage.id for passage in read_corpus(path)] == ["0", "1"]


def test_gzip_is_read_whatever_the_name(tmp_path: Path) -> None:
    """A gzipped corpus equals the plain one, also when a download dropped the .gz of its name."""
    zipped = gzip.compress(write(tmp_path / "c.jsonl", {"id": "a", "contents": '"T"\nx'}).read_bytes())
    for name in ("c.jsonl.gz", "renamed.jsonl"):
        (tmp_path / name).write_bytes(zipped)
        assert read_corpus(tmp_path / name) == [Passage("a", "T", "x")]


GOOD = '{"id": "a", "contents": "\\"T\\"\\nx"}'


@pytest.mark.parametrize(
    ("second_line", "says"),
    [
        ("{not json", "one JSON object per line"),
        ('["a", "b"]', "not an object"),
        ('{"id": "b"}', '"contents"'),
        ('{"id": "b", "contents": null}', "must be a string"),
        ('{"id": "b", "title": 3, "text": "x"}', '"title" is 3'),
        ('{"contents": "x"}', '"id" is None'),
        ('{"id": true, "contents": "x"}', '"id" is True'),
        ('{"id": "a", "contents": "y"}', 'id "a" is already on line 1'),
    ],
)
def test_bad_line_is_named(tmp_path: Path, second_line: str, says: str) -> None:
    """Every kind of unusable line is an error that names the file, the line and what to do."""
    path = tmp_path / "c.jsonl"
    path.write_text(f"{GOOD}\n{second_line}\n")
    with pytest.raises(CorpusError) as error:
        read_corpus(path)
    assert f"{path}, line 2" in str(error.value)
    assert says in str(error.value)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    """A file in another encoding is an error at its first bad line, not a traceback from the decoder."""
    path = tmp_path / "c.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"id": "b", "contents": "caf\xe9"}\n')
    with pytest.raises(CorpusError, match=r"line 2: not JSON .* UTF-8"):
        read_corpus(path)


def test_empty_missing_and_folder(tmp_path: Path) -> None:
    """A file without passages, no file, and a folder each have a message of their own."""
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(CorpusError, match=r"empty\.jsonl holds no passage"):
        read_corpus(tmp_path / "empty.jsonl")
    for read in (read_corpus, corpus_fingerprint):
        with pytest.raises(CorpusError, match=r"absent\.jsonl cannot be read \(No such file"):
            read(tmp_path / "absent.jsonl")
        with pytest.raises(CorpusError, match="give the path of a file"):
            read(tmp_path)


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: data[:40] + b"\0\0\0\0" + data[44:]])
def test_damaged_gzip(tmp_path: Path, damage: object) -> None:
    """A download that was cut or garbled says so instead of serving the passages before the damage."""
    assert callable(damage)
    rows = "".join(json.dumps({"id": str(i), "contents": f"passage {i}"}) + "\n" for i in range(300))
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(damage(gzip.compress(rows.encode())))
    with pytest.raises(CorpusError, match="damaged after line"):
        read_corpus(path)


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    """Equal bytes have equal fingerprints wherever they are; one other byte changes it."""
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    (tmp_path / "b").write_bytes(b"x" * 100_000)
    (tmp_path / "c").write_bytes(b"x" * 99_999 + b"y")
    assert corpus_fingerprint(tmp_path / "a") == corpus_fingerprint(tmp_path / "b")
    assert corpus_fingerprint(tmp_path / "a") == hashlib.sha256(b"x" * 100_000).hexdigest()
    assert corpus_fingerprint(tmp_path / "a") != corpus_fingerprint(tmp_path / "c")
