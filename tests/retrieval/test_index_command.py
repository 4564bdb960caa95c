"""`a2tgpo index`: what it builds, what it says, and arguments that contradict each other."""

from __future__ import annotations

import argparse
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from a2tgpo.errors import RecipeError
from a2tgpo.retrieval.index_command import add_index_command
from a2tgpo.retrieval.manifest import Manifest
from a2tgpo.retrieval.source import open_index


def index(*arguments: str | Path) -> str:
    """Run the command and return what it prints."""
    parser = argparse.ArgumentParser()
    add_index_command(parser.add_subparsers(required=True))
    parsed, unknown = parser.parse_known_args(["index", *map(str, arguments)])
    console = Console(file=StringIO())
    assert parsed.run(parsed, unknown, console) == 0
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_bm25(tmp_path: Path, corpus_file: Path) -> None:
    """Options reach the index, and running it again says the same."""
    command = (corpus_file, "--backend", "bm25", "--title_weight", "3", "-o", tmp_path / "index")
    assert index(*command) == index(*command) == f"{tmp_path / 'index'}: bm25 index of 600 passages\n"
    manifest = Manifest.read(tmp_path / "index")
    assert manifest.settings.bm25 is not None and manifest.settings.bm25.title_weight == 3


def test_hybrid_over_adopted_vectors(
    tmp_path: Path, corpus_file: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of one index serve another type; an encoder given by a relative path is found from anywhere."""
    monkeypatch.chdir(encoder_folder.parent)
    common = (corpus_file, "--encoder", encoder_folder.name, "--max_length", "64", "--query_prefix", "", "-o")
    index(*common, tmp_path / "flat", "--backend", "dense")
    monkeypatch.chdir(tmp_path)
    vectors = tmp_path / "flat" / "dense" / "vectors.faiss"
    monkeypatch.chdir(encoder_folder.parent)
    said = index(*common, tmp_path / "hybrid", "--backend", "hybrid", "--faiss_type", "hnsw", "--faiss_index", vectors)
    assert said.endswith("600 passages; hnsw, 32 dimensions, query prefix '', passage prefix ''\n")
    monkeypatch.chdir(tmp_path)
    assert open_index(tmp_path / "hybrid").search(["sk"], 3)[0]
    dense = Manifest.read(tmp_path / "hybrid").settings.dense
    assert dense is not None and (dense.encoder, dense.max_length) == (str(encoder_folder), 64)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--backend", "bm25", "--encoder", "x"), "backend='bm25' has no dense part"),
        (("--backend", "dense", "--title_weight", "2"), "backend='dense' has no bm25 part"),
        (("--backend", "bm25", "--title_weight", "0"), "title_weight=0: must be at least 1"),
        (("--backend", "bm25", "--faiss_index", "x"), "a bm25 index has no vectors"),
        (("--backend", "bm25", "--titel_weight", "2"), "does not know '--titel_weight 2'"),
    ],
)
def test_arguments_that_contradict(tmp_path: Path, corpus_file: Path, arguments: tuple[str, ...], says: str) -> None:
    """Each is refused before anything is written."""
    with pytest.raises(RecipeError, match=says):
        index(corpus_file, *arguments, "-o", tmp_path / "index")
    assert not (tmp_path / "index").exists()
