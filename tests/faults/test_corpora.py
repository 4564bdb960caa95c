"""Corpora in the wild: other people's field names, nulls, numbers, empty lines, byte order marks, broken text."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from a2tgpo.errors import CorpusError
from a2tgpo.files import parse_json, whole_text
from a2tgpo.retrieval import BM25Retriever, Passage, read_corpus
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.client import HTTPRetriever
from a2tgpo.retrieval.settings import IndexSettings
from a2tgpo.retrieval.source import open_index
from tests.retrieval.server.parts import served


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "passage"),
    [
        ({"_id": "d1", "title": "T", "text": "alpha", "metadata": {}}, Passage("d1", "T", "alpha")),
        ({"id": 1, "title": None, "text": "alpha"}, Passage("1", "", "alpha")),
        ({"id": 1, "text": "alpha"}, Passage("1", "", "alpha")),
        ({"id": 2.0, "contents": '"T"\nx'}, Passage("2", "T", "x")),
        ({"id": "a", "contents": None, "title": "T", "text": "x"}, Passage("a", "T", "x")),
        ({"id": "a\ud83d", "contents": '"T \udc00"\nx \ud83d'}, Passage("a\ufffd", "T \ufffd", "x \ufffd")),
    ],
)
def test_rows_in_the_wild(tmp_path: Path, row: object, passage: Passage) -> None:
    """BEIR's names, null titles, whole numbers as ids and half surrogate pairs are read, in memory and on disk."""
    corpus = write(tmp_path / "c.jsonl", row, {"id": "z", "contents": "last"})
    assert read_corpus(corpus)[0] == passage
    build_index(corpus, tmp_path / "index", IndexSettings.of("bm25"))
    store = open_index(tmp_path / "index").passages
    assert store[0] == passage


@pytest.mark.parametrize(
    "row",
    [
        {"id": "b", "title": 3, "text": "x"},
        {"id": "b", "title": "T", "text": None},
        {"id": "b", "title": "T", "text": 3},
        {"id": "b", "contents": ["x"]},
        {"id": 1.5, "contents": "x"},
        {"id": float("nan"), "contents": "x"},
        {"id": "", "contents": "x"},
        {"id": None, "contents": "x"},
        {"title": "T", "text": "x"},
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, row: object) -> None:
    """What cannot be read is an error with file and line."""
    with pytest.raises(CorpusError, match=r"c\.jsonl, line 2: "):
        read_corpus(write(tmp_path / "c.jsonl", {"id": "a", "contents": "x"}, row))


def test_empty_passages_are_counted_and_never_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One empty line does not stop millions: it is left out of a list, keeps its place in an index, and is no hit."""
    rows = [
        {"id": 1, "contents": '"T"\nriver'},
        {"id": 2, "contents": ""},
        {"id": 3, "contents": '""\n'},
        {"id": 4, "text": " "},
    ]
    corpus = write(tmp_path / "c.jsonl", *rows, {"id": 5, "contents": '"T"\nriver bank'})
    with caplog.at_level(logging.WARNING):
        assert [passage.id for passage in read_corpus(corpus)] == ["1", "5"]
    assert "3 empty passages, the first on line 2" in caplog.text
    assert build_index(corpus, tmp_path / "index", IndexSettings.of("bm25")).n_passages == 5
    (hits,) = open_index(tmp_path / "index").search(["river"], 5)
    assert {hit.passage.id for hit in hits} == {"1", "5"}


def test_a_corpus_of_nothing_is_refused(tmp_path: Path) -> None:
    """A file in which every passage is empty is no corpus."""
    with pytest.raises(CorpusError, match="holds no passage"):
        read_corpus(write(tmp_path / "c.jsonl", {"id": 1, "contents": ""}, {"id": 2, "text": "\n"}))


def test_bytes_around_the_lines(tmp_path: Path) -> None:
    """A byte order mark, carriage returns, blank lines and several gzip members are no part of a passage."""
    line = b'{"id": 1, "contents": "x"}\r\n'
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + line) + gzip.compress(b"\r\n" + line.replace(b"1", b"2")))
    assert [passage.id for passage in read_corpus(path)] == ["1", "2"]


def test_half_a_pair_reaches_no_one(tmp_path: Path) -> None:
    """A passage with half a surrogate pair is found, shown, and sent by a server like any other."""
    corpus = write(tmp_path / "c.jsonl", {"id": 1, "contents": '"Kelo"\nThe mentor of Kelo \ud83d is Bora.'})
    retriever = BM25Retriever.build(corpus, cache_dir=tmp_path / "cache")
    (hits,) = retriever.search(["mentor"], 1)
    assert hits[0].passage.text.encode().decode() == "The mentor of Kelo \ufffd is Bora."
    pytest.importorskip("fastapi")
    with served(retriever) as url:
        assert HTTPRetriever(url).search(["Mitu", "mentor"], 1)[1] == hits


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("plain", "plain"),
        ("\U0001f600", "\U0001f600"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("a\ud83db\udfffc", "a\ufffdb\ufffdc"),
        ("\ud83d", "\ufffd"),
    ],
)
def test_text_is_made_whole(text: str, whole: str) -> None:
    """Halves that stand together become their character, others U+FFFD; escaped, or as bytes that UTF-8 forbids."""
    assert whole_text(text) == whole
    assert parse_json(json.dumps({"a": [text, {text: 1}]}).encode()) == {"a": [whole, {whole: 1}]}
    assert parse_json(b'["' + text.encode(errors="surrogatepass") + b'"]') == [whole]
