"""Building an index folder: killed anywhere it goes on, and it never mixes two corpora or two settings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from a2tgpo.errors import CorpusError, IndexMismatch, MissingExtra
from a2tgpo.retrieval import Passage, corpus_fingerprint
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.manifest import Manifest
from a2tgpo.retrieval.settings import BM25Settings, DenseSettings, IndexSettings
from a2tgpo.retrieval.source import open_index
from tests.retrieval.worlds import write_corpus

BM25 = IndexSettings.of("bm25")

# A process that kills itself in the middle of a stage, as a power cut would.
KILLED = """
import os, signal, sys
from a2tgpo.retrieval import bm25, build, passage_store, vectors
from a2tgpo.retrieval.settings import DenseSettings, IndexSettings

die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
corpus, folder, stage, *encoder = sys.argv[1:]
if stage == "passages":
    passage_store._check_ids = die
elif stage == "words":
    bm25.bm25s.BM25.save = lambda self, folder, **_: ((folder / "data.csc.index.npy").write_bytes(b"half"), die())
elif stage == "third shard":
    encode, calls = build.Encoder.passages, []  # the first call is the probe's
    build.Encoder.passages = lambda *args: (calls.append(0), len(calls) > 3 and die(), encode(*args))[2]
elif stage == "vectors":
    import faiss
    faiss.write_index = lambda index, path: (open(path, "wb").write(b"half"), die())
elif stage == "manifest":
    write = build.Manifest.write
    build.Manifest.write = lambda self, folder: die() if self.finished else write(self, folder)
vectors._SHARD = vectors._STEP = 64
dense_settings = DenseSettings(encoder=encoder[0]) if encoder else None
build.build_index(corpus, folder, IndexSettings.of("hybrid" if encoder else "bm25", dense=dense_settings))
"""


def content(folder: Path) -> dict[str, bytes]:
    """Every file of an index folder but the lock, byte by byte."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def kill_and_resume(corpus: Path, folder: Path, stage: str, settings: IndexSettings, *encoder: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(corpus), str(folder), stage, *encoder]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killed = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with pytest.raises(IndexMismatch, match="not finished; run the same a2tgpo index command again"):
        open_index(folder)
    build_index(corpus, folder, settings)


@pytest.mark.parametrize("stage", ["passages", "words", "manifest"])
def test_a_killed_bm25_build_goes_on(tmp_path: Path, corpus_file: Path, stage: str) -> None:
    """After SIGKILL the folder cannot be opened, and the same call again makes the index of an unbroken build."""
    build_index(corpus_file, tmp_path / "whole", BM25)
    kill_and_resume(corpus_file, tmp_path / "killed", stage, BM25)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.parametrize("stage", ["third shard", "vectors"])
def test_a_killed_hybrid_build_goes_on(
    tmp_path: Path, corpus_file: Path, encoder_folder: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors too are the same bit by bit, and shards that were finished are not encoded again."""
    from a2tgpo.retrieval import vectors
    from a2tgpo.retrieval.encoder import Encoder

    monkeypatch.setattr(vectors, "_SHARD", 64)
    monkeypatch.setattr(vectors, "_STEP", 64)
    settings = IndexSettings.of("hybrid", dense=DenseSettings(encoder=str(encoder_folder)))
    build_index(corpus_file, tmp_path / "whole", settings)
    encoded: list[int] = []
    encode = Encoder.passages
    monkeypatch.setattr(
        Encoder, "passages", lambda self, passages: (encoded.append(len(passages)), encode(self, passages))[1]
    )
    kill_and_resume(corpus_file, tmp_path / "killed", stage, settings, str(encoder_folder))
    # Probes are one passage. Two of ten shards were finished when the process died in the third.
    assert sum(encoded) - encoded.count(1) == {"third shard": 600 - 128, "vectors": 0}[stage]
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_the_manifest_says_what_was_built(tmp_path: Path, corpus_file: Path, encoder_folder: Path) -> None:
    """Corpus, settings as used, sizes and versions; the very numbers that the folder holds."""
    settings = IndexSettings.of("hybrid", BM25Settings(3), DenseSettings(str(encoder_folder), query_prefix="ask: "))
    manifest = build_index(corpus_file, tmp_path / "index", settings)
    assert manifest == Manifest.read(tmp_path / "index")
    assert manifest.settings.dense == DenseSettings(str(encoder_folder), query_prefix="ask: ", passage_prefix="")
    assert manifest.settings.bm25 == BM25Settings(3)
    assert (manifest.n_passages, manifest.dimension, manifest.finished) == (600, 32, True)
    assert manifest.corpus_sha256 == corpus_fingerprint(corpus_file)
    assert {"a2tgpo", "bm25s", "faiss-cpu", "sentence-transformers"} <= set(manifest.versions)
    assert json.loads((tmp_path / "index" / "manifest.json").read_text())["format"] == 1
    names = {path.name for path in (tmp_path / "index").iterdir()} - {".lock"}
    assert names == {"manifest.json", "passages", "bm25", "dense"}


def test_a_finished_index_is_left_alone(tmp_path: Path, corpus_file: Path) -> None:
    """The same call on a finished folder changes nothing."""
    build_index(corpus_file, tmp_path / "index", BM25)
    before = content(tmp_path / "index")
    assert build_index(corpus_file, tmp_path / "index", BM25).finished
    assert content(tmp_path / "index") == before


@pytest.mark.parametrize("finished", [True, False])
def test_another_corpus_or_setting_is_refused(tmp_path: Path, corpus_file: Path, finished: bool) -> None:
    """What is there is neither overwritten nor taken for what was asked; the error says what differs."""
    folder = tmp_path / "index"
    manifest = build_index(corpus_file, folder, BM25)
    if not finished:
        Manifest(BM25, manifest.corpus_sha256).write(folder)
    state = "an index" if finished else "an unfinished index"
    with pytest.raises(IndexMismatch, match=f"holds {state} of title_weight 1, not 3; give a new folder"):
        build_index(corpus_file, folder, IndexSettings.of("bm25", BM25Settings(3)))
    with pytest.raises(IndexMismatch, match="backend bm25, not hybrid"):
        build_index(corpus_file, folder, IndexSettings.of("hybrid"))
    other = write_corpus(tmp_path / "other.jsonl", [Passage("a", "Orel", "A town.")])
    with pytest.raises(IndexMismatch, match=f"another corpus, of sha256 {corpus_fingerprint(corpus_file)}"):
        build_index(other, folder, BM25)


def test_folders_of_others_are_left_alone(tmp_path: Path, corpus_file: Path) -> None:
    """A folder with files that are no index is refused, and one that is being built by another process too."""
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "unfinished-chapter").write_text("all I have")
    with pytest.raises(IndexMismatch, match="is no index and holds 'unfinished-chapter'"):
        build_index(corpus_file, thesis, BM25)
    (thesis / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(IndexMismatch, match=r"manifest\.json is damaged"):
        build_index(corpus_file, thesis, BM25)
    assert sorted(path.name for path in thesis.iterdir()) == ["manifest.json", "unfinished-chapter"]
    (tmp_path / "index").mkdir()
    with FileLock(tmp_path / "index" / ".lock"), pytest.raises(IndexMismatch, match="built by another process"):
        build_index(corpus_file, tmp_path / "index", BM25)


def test_a_bad_corpus_can_be_mended(tmp_path: Path) -> None:
    """A corpus with a bad line stops the build with file and line; once it is mended, the same folder serves."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"id": "a", "contents": "\\"Orel\\"\\nA town."}\n{"id": "b"}\n')
    with pytest.raises(CorpusError, match=r"corpus\.jsonl, line 2"):
        build_index(corpus, tmp_path / "index", BM25)
    write_corpus(corpus, [Passage("a", "Orel", "A town.")])
    build_index(corpus, tmp_path / "index", BM25)
    assert open_index(tmp_path / "index").search(["town"], 1)[0][0].passage.id == "a"


def test_other_weights_do_not_go_on(tmp_path: Path, corpus_file: Path, encoder_folder: Path) -> None:
    """A build that goes on with an encoder whose weights have changed since would mix two kinds of vectors."""
    from tests.retrieval.worlds import write_encoder

    folder, moving = tmp_path / "index", tmp_path / "encoder"
    moving.symlink_to(encoder_folder)
    settings = IndexSettings.of("dense", dense=DenseSettings(str(moving)))
    manifest = build_index(corpus_file, folder, settings)
    Manifest(settings, manifest.corpus_sha256).write(folder)
    (folder / "dense" / "vectors.faiss").unlink()
    moving.unlink()
    moving.symlink_to(write_encoder(tmp_path / "other", seed=1))
    with pytest.raises(IndexMismatch, match="other weights or prefixes"):
        build_index(corpus_file, folder, settings)


def test_settings_are_checked() -> None:
    """Every setting names itself, its value and what it may be."""
    with pytest.raises(ValueError, match="backend='colbert': must be one of bm25, dense, hybrid"):
        IndexSettings.of("colbert")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend='dense' has no bm25 part"):
        IndexSettings.of("dense", BM25Settings())
    with pytest.raises(ValueError, match="title_weight=0"):
        BM25Settings(0)
    with pytest.raises(ValueError, match="max_length=0"):
        DenseSettings(max_length=0)
    with pytest.raises(ValueError, match="faiss_type='ivf': must be one of flat, hnsw, ivfpq, sq8"):
        DenseSettings(faiss_type="ivf")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype='int8'"):
        DenseSettings(dtype="int8")  # type: ignore[arg-type]


@pytest.mark.parametrize("package", ["faiss", "sentence_transformers"])
def test_missing_libraries_say_how_to_install_them(
    tmp_path: Path, corpus_file: Path, package: str, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, dense retrieval names it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"{package}.*pip install 'a2tgpo\[dense\]'"):
        build_index(corpus_file, tmp_path, IndexSettings.of("dense", dense=DenseSettings(str(encoder_folder))))
