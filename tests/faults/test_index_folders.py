"""Index folders and caches that somebody else filled: nothing in them is executed, and a changed file is found."""

from __future__ import annotations

import json
import pickle
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from a2tgpo.cli import main
from a2tgpo.errors import IndexMismatch, RecipeError
from a2tgpo.retrieval import Hit, Passage
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.query_cache import QueryCache
from a2tgpo.retrieval.settings import DenseSettings, IndexSettings
from a2tgpo.retrieval.source import open_index
from tests.retrieval.worlds import passages, write_corpus, write_encoder


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_index(write_corpus(tmp_path / "c.jsonl", passages(40)), tmp_path / "index", IndexSettings.of("bm25"))
    return tmp_path / "index"


@pytest.mark.parametrize("place", ["modules.json", "1_Pooling"])
def test_an_encoder_with_code_of_its_own_is_refused(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that names an encoder whose files name a module outside the library: refused, and never imported."""
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("faiss")
    encoder = write_encoder(tmp_path / "encoder")
    settings = IndexSettings.of("dense", dense=DenseSettings(str(encoder)))
    build_index(write_corpus(tmp_path / "c.jsonl", passages(40)), tmp_path / "index", settings)
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Trap: pass\n")
    shutil.copy(tmp_path / "trap.py", encoder / "trap.py")
    monkeypatch.syspath_prepend(tmp_path)
    modules = json.loads((encoder / "modules.json").read_text())
    modules[0 if place == "modules.json" else -1]["type"] = "trap.Trap"
    (encoder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(IndexMismatch, match=r"encoder .* cannot be loaded .*trap\.Trap"):
        open_index(tmp_path / "index")
    assert not (tmp_path / "sprung").exists() and "trap" not in sys.modules


def test_an_old_sentence_transformers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 5 imports such modules unasked, so it loads no encoder."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from a2tgpo.retrieval.encoder import Encoder

    monkeypatch.setattr(sentence_transformers, "__version__", "5.2.0")
    with pytest.raises(RecipeError, match=r"sentence-transformers 5\.2\.0 imports whatever"):
        Encoder(DenseSettings(str(tmp_path)))


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.trace), "w")


def test_a_cache_is_never_unpickled(tmp_path: Path) -> None:
    """A cache folder filled with pickles, in our file and in the one of before, is not executed."""
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.db").write_bytes(trap)
    cache = QueryCache(tmp_path / "cache")
    cache.put("index", 1, {"q": [Hit(Passage("1", "T", "x"), 1.0)]}, "url")
    with sqlite3.connect(tmp_path / "cache" / "answers-1.sqlite") as file:
        file.execute("UPDATE answers SET hits = ?", (trap,))
    file.close()
    with pytest.raises(Exception, match="cannot be used"):
        QueryCache(tmp_path / "cache").get("index", 1, ["q"])
    assert not (tmp_path / "sprung").exists()


def test_a_cache_stays_within_its_size(tmp_path: Path) -> None:
    """Beyond its bytes the oldest answers go and the newest stay."""
    cache = QueryCache(tmp_path, most_bytes=200_000)
    for i in range(100):
        cache.put("index", 1, {f"q{i}": [Hit(Passage("1", "T", "x" * 10_000), 1.0)]}, "url")
    kept = cache.get("index", 1, [f"q{i}" for i in range(100)])
    assert "q99" in kept and "q0" not in kept and 5 < len(kept) < 30


@pytest.mark.parametrize("change", ["flip", "cut", "remove", "add"])
def test_a_changed_index_is_found(index: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`a2tgpo index --verify` reads every file and names the one that is not as it was built."""
    assert main(["index", "--verify", str(index)]) == 0
    assert "files are what was built" in capsys.readouterr().out
    victim = index / "passages" / "passages.jsonl"
    content = victim.read_bytes()
    if change == "flip":
        victim.write_bytes(content[:-5] + b"X" + content[-4:])
    elif change == "cut":
        victim.write_bytes(content[:-1])
    elif change == "remove":
        victim.unlink()
    else:
        victim = index / "bm25" / "new"
        victim.write_bytes(b"")
    assert main(["index", "--verify", str(index)]) == 2
    assert f"{victim.relative_to(index).as_posix()} missing, new or changed" in capsys.readouterr().err


def test_verifying_what_is_no_index(tmp_path: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No index, an index of before checksums, and arguments that do not go together are one-line errors."""
    assert main(["index", "--verify", str(tmp_path)]) == 2
    assert main(["index", "corpus", "--verify", str(index)]) == 2
    assert main(["index", "corpus", "--backend", "bm25"]) == 2
    manifest = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps({**manifest, "checksums": {}}))
    assert main(["index", "--verify", str(index)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4 and all(error.startswith("error: ") for error in errors)
    assert "before checksums" in errors[3]
