"""Passages on disk: what is read back is what was written, and nothing is read that is not asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from a2tgpo.errors import CorpusError, IndexMismatch
from a2tgpo.retrieval import Passage, read_corpus
from a2tgpo.retrieval import passage_store as store_module
from a2tgpo.retrieval.passage_store import PassageStore
from tests.retrieval.worlds import write_corpus

ODD = [
    Passage("a", "Zoë", "Ein Fluß.\nZwei Zeilen, “quoted”, \u2028 and a separator."),
    Passage("b", "", "No title."),
    Passage("c", 'Half \ufffd"', "of a surrogate pair"),
    Passage("d", "Only a title", ""),
]


def test_passages_come_back_as_they_were(tmp_path: Path) -> None:
    """Title and text survive line breaks and quotes, half a surrogate pair is U+FFFD; positions count either way."""
    half = [replace(passage, title=passage.title.replace("\ufffd", "\ud83d")) for passage in ODD]
    store = PassageStore.write(write_corpus(tmp_path / "c.jsonl", half), tmp_path / "store")
    assert list(store) == [store[i] for i in range(4)] == store[:] == ODD
    assert (store[-1], store[1:3], len(store)) == (ODD[3], ODD[1:3], 4)
    with pytest.raises(IndexError):
        store[4]


def test_the_store_is_a_corpus(tmp_path: Path, corpus_file: Path, world: list[Passage]) -> None:
    """`passages.jsonl` can be indexed again where the corpus file is gone."""
    PassageStore.write(corpus_file, tmp_path / "store")
    assert read_corpus(tmp_path / "store" / "passages.jsonl") == world


def test_repeated_ids_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated id is refused with both lines, although ids are not kept; ids of equal hashes are no repeat."""
    corpus = write_corpus(tmp_path / "c.jsonl", [*ODD, Passage("b", "Again", "")])
    with pytest.raises(CorpusError, match=r'line 5: id "b" is already on line 2'):
        PassageStore.write(corpus, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(store_module, "hash", lambda _: 7, raising=False)
    assert len(PassageStore.write(write_corpus(corpus, ODD), tmp_path / "store")) == 4


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    """A file of blank lines is no corpus, and leaves no store."""
    (tmp_path / "c.jsonl").write_text("\n\n")
    with pytest.raises(CorpusError, match="holds no passage"):
        PassageStore.write(tmp_path / "c.jsonl", tmp_path / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["c.jsonl"]


@pytest.mark.parametrize("lost", ["passages.jsonl", "offsets.npy"])
def test_lost_files_are_named(tmp_path: Path, lost: str) -> None:
    """A store without one of its files is refused with the file's name."""
    PassageStore.write(write_corpus(tmp_path / "c.jsonl", ODD), tmp_path / "store")
    (tmp_path / "store" / lost).unlink()
    with pytest.raises(IndexMismatch, match=f"{lost}.*build the index again"):
        PassageStore(tmp_path / "store")


def test_lost_passages_are_noticed(tmp_path: Path) -> None:
    """A line cut out of the text is noticed at once, an overwritten one when it is read: never another passage."""
    text = tmp_path / "store" / "passages.jsonl"
    PassageStore.write(write_corpus(tmp_path / "c.jsonl", ODD), tmp_path / "store")
    whole = text.read_bytes()
    text.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    with pytest.raises(IndexMismatch, match="passages were lost or changed"):
        PassageStore(tmp_path / "store")
    text.write_bytes(b" " * whole.index(b"\n") + whole[whole.index(b"\n") :])
    store = PassageStore(tmp_path / "store")
    assert store[1] == ODD[1]
    with pytest.raises(IndexMismatch, match=r"passage 0 of .* is damaged"):
        store[0]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_text_stays_on_disk(tmp_path: Path) -> None:
    """A process that opens 64 MB of passages and reads three of them has taken less than 8 MB for it."""
    folder = tmp_path / "store"
    folder.mkdir()
    line = json.dumps({"id": "x", "title": "t", "text": "y" * 65_000}).encode() + b"\n"
    (folder / "passages.jsonl").write_bytes(line * 1000)
    np.save(folder / "offsets.npy", np.arange(1001, dtype=np.int64) * len(line))
    script = (
        "import sys; from pathlib import Path; from a2tgpo.retrieval.passage_store import PassageStore\n"
        "used = lambda: int(Path('/proc/self/status').read_text().split('VmRSS:')[1].split()[0])\n"
        "before = used(); store = PassageStore(Path(sys.argv[1]))\n"
        "assert len(store) == 1000 and [len(store[i].text) for i in (0, 500, 999)] == [65_000] * 3\n"
        "print(used() - before)"
    )
    result = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 8_000
