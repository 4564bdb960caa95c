"""Opening an index folder: it finds what its parts find, and every way of not fitting together is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from a2tgpo.errors import IndexMismatch, RecipeError
from a2tgpo.retrieval import BM25Retriever, Passage
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.client import HTTPRetriever
from a2tgpo.retrieval.manifest import Manifest
from a2tgpo.retrieval.settings import BM25Settings, DenseSettings, IndexSettings
from a2tgpo.retrieval.source import open_index, open_retriever
from tests.retrieval.worlds import WORDS, write_corpus

QUERIES = [" ".join(WORDS[i : i + 4]) for i in range(0, 160, 8)]


@pytest.fixture(scope="module")
def bm25_index(corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes") / "bm25"
    build_index(corpus_file, folder, IndexSettings.of("bm25", BM25Settings(2)))
    return folder


@pytest.fixture(scope="module")
def hybrid_index(corpus_file: Path, encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes") / "hybrid"
    dense = DenseSettings(str(encoder_folder), faiss_type="hnsw")
    build_index(corpus_file, folder, IndexSettings.of("hybrid", dense=dense))
    return folder


@pytest.fixture
def broken(hybrid_index: Path, tmp_path: Path) -> Path:
    """A copy of a whole index, to be broken."""
    return shutil.copytree(hybrid_index, tmp_path / "broken")


def test_bm25_from_disk_is_bm25_in_memory(bm25_index: Path, world: list[Passage]) -> None:
    """Streamed, saved and memory-mapped, the index finds the same with the same scores; its arrays are on disk."""
    opened, in_memory = open_index(bm25_index), BM25Retriever.from_passages(world, title_weight=2)
    assert opened.search(QUERIES, 10) == in_memory.search(QUERIES, 10)
    scores = opened.ranker.index.scores  # type: ignore[attr-defined]
    assert all(isinstance(scores[name], np.memmap) for name in ("data", "indices", "indptr"))


def test_hybrid_fuses_its_parts(hybrid_index: Path, world: list[Passage], tmp_path: Path, corpus_file: Path) -> None:
    """Each score is 1/(60 + rank) summed over the ranks in BM25 and in the vectors, of the first hundred."""
    dense = Manifest.read(hybrid_index).settings.dense
    build_index(corpus_file, tmp_path / "dense", IndexSettings.of("dense", dense=dense))
    parts = [BM25Retriever.from_passages(world), open_index(tmp_path / "dense")]
    fused = open_index(hybrid_index).search(QUERIES, 10)
    for i, query in enumerate(QUERIES):
        expected: dict[str, float] = {}
        for part in parts:
            for rank, hit in enumerate(part.search([query], 100)[0], start=1):
                expected[hit.passage.id] = expected.get(hit.passage.id, 0) + 1 / (60 + rank)
        best = sorted(expected.values(), reverse=True)[:10]
        assert [hit.score for hit in fused[i]] == pytest.approx(best)
        assert all(hit.score == pytest.approx(expected[hit.passage.id]) for hit in fused[i])


def test_the_corpus_and_the_encoder_may_have_moved(
    hybrid_index: Path, corpus_file: Path, encoder_folder: Path, tmp_path: Path
) -> None:
    """A corpus file is not needed, but checked if given. The encoder may lie elsewhere, if it is the same: the index
    finds what it found."""
    before = open_index(hybrid_index).search(QUERIES, 5)
    moved = shutil.copytree(encoder_folder, tmp_path / "elsewhere")
    after = open_index(hybrid_index, corpus=corpus_file, encoder=str(moved)).search(QUERIES, 5)
    assert after == before and all(len(found) == 5 for found in after)
    changed = write_corpus(tmp_path / "changed.jsonl", [Passage("a", "Orel", "A town.")])
    with pytest.raises(IndexMismatch, match="built from another corpus"):
        open_index(hybrid_index, corpus=changed)


def test_open_retriever(bm25_index: Path) -> None:
    """A folder opens as an index, an address as a client that waits as long as it is told."""
    assert open_retriever(str(bm25_index)).search(QUERIES[:1], 2) == open_index(bm25_index).search(QUERIES[:1], 2)
    client = open_retriever("http://127.0.0.1:9", 7.0)
    assert isinstance(client, HTTPRetriever) and client.timeout_s == 7.0 and client._cache is None
    with pytest.raises(RecipeError, match=r"search_cache='kept'.*leave it out"):
        open_retriever(str(bm25_index), cache="kept")


def test_bad_arguments_are_named(bm25_index: Path) -> None:
    """What the index does not have cannot be set, and queries are a list."""
    with pytest.raises(ValueError, match=r"effort=3: .* is a bm25 index"):
        open_index(bm25_index, effort=3)
    with pytest.raises(ValueError, match="k=0"):
        open_index(bm25_index).search(["x"], 0)
    with pytest.raises(ValueError, match="'x' is one string"):
        open_index(bm25_index).search("x", 1)


def test_what_is_no_index(tmp_path: Path) -> None:
    """A missing or empty folder says how an index is built."""
    with pytest.raises(IndexMismatch, match="is no index; build one with a2tgpo index CORPUS -o"):
        open_index(tmp_path)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lose_a_passage(folder: Path) -> None:
    """A store that is whole in itself and one passage shorter than what was indexed."""
    text, offsets = folder / "passages" / "passages.jsonl", folder / "passages" / "offsets.npy"
    kept = np.load(offsets)[:-1]
    text.write_bytes(text.read_bytes()[: kept[-1]])
    np.save(offsets, kept)


def shrink(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


MISMATCHES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "unfinished": (lambda at: edit(at, finished=False), "not finished; run the same a2tgpo index command again"),
    "later format": (lambda at: edit(at, format=2), "format 2 and this version of a2tgpo reads 1"),
    "torn manifest": (lambda at: shrink(at / "manifest.json"), r"manifest\.json is damaged"),
    "unknown setting": (lambda at: edit(at, settings={"backend": "bm25"}), r"manifest\.json is damaged"),
    "other stems": (lambda at: edit(at, words="1/0.0.1"), "counts words by rules 1/0.0.1"),
    "lost passage": (lose_a_passage, "holds 599 passages of .* and 600 of"),
    "cut passages": (lambda at: shrink(at / "passages" / "passages.jsonl"), "passages were lost or changed"),
    "cut postings": (lambda at: shrink(at / "bm25" / "data.csc.index.npy"), "bm25 is damaged"),
    "lost vocabulary": (lambda at: (at / "bm25" / "vocab.index.json").unlink(), "bm25 is damaged"),
    "lost vectors": (lambda at: (at / "dense" / "vectors.faiss").unlink(), r"vectors\.faiss does not exist"),
    "cut vectors": (lambda at: shrink(at / "dense" / "vectors.faiss"), r"vectors\.faiss is no faiss index"),
    "lost probe": (lambda at: (at / "dense" / "probe.npy").unlink(), r"probe\.npy is missing"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_does_not_fit_is_refused(broken: Path, name: str) -> None:
    """Each kind of damage is an IndexMismatch that says what differs."""
    damage, says = MISMATCHES[name]
    damage(broken)
    with pytest.raises(IndexMismatch, match=says):
        open_index(broken)


def test_parts_of_another_corpus_are_refused(broken: Path, world: list[Passage], tmp_path: Path) -> None:
    """Postings and vectors of fewer passages than the store holds."""
    other = tmp_path / "other"
    settings = Manifest.read(broken).settings
    build_index(write_corpus(tmp_path / "half.jsonl", world[:300]), other, settings)
    shutil.copy(other / "dense" / "vectors.faiss", broken / "dense" / "vectors.faiss")
    with pytest.raises(IndexMismatch, match="holds 300 vectors and there are 600 passages"):
        open_index(broken)
    shutil.rmtree(broken / "bm25")
    shutil.copytree(other / "bm25", broken / "bm25")
    with pytest.raises(IndexMismatch, match="holds 300 passages and 600 were stored"):
        open_index(broken)


def test_another_encoder_is_refused(broken: Path, tmp_path: Path, encoder_folder: Path) -> None:
    """Another dimension, other weights of the same dimension, and other prefixes."""
    from tests.retrieval.worlds import write_encoder

    with pytest.raises(IndexMismatch, match="an encoder of 32 dimensions and this one has 16"):
        open_index(broken, encoder=str(write_encoder(tmp_path / "small", dimension=16)))
    with pytest.raises(IndexMismatch, match="other weights or prefixes"):
        open_index(broken, encoder=str(write_encoder(tmp_path / "other", seed=1)))
    manifest = Manifest.read(broken)
    assert manifest.settings.dense is not None
    prefixed = replace(manifest.settings.dense, query_prefix="sk va ti: ")
    replace(manifest, settings=replace(manifest.settings, dense=prefixed)).write(broken)
    with pytest.raises(IndexMismatch, match="other weights or prefixes"):
        open_index(broken)
