"""Where a run's questions and passages come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from a2tgpo.config import load_recipe
from a2tgpo.data.world import World
from a2tgpo.errors import IndexMismatch
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.settings import IndexSettings
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.task import open_task


def recipe(folder: Path, retriever: Path) -> Path:
    """A recipe over the generated world's questions, written to files, and an index."""
    world = World.generate(0, 24, 12)
    for split in ("train", "eval"):
        rows = [json.dumps(row) for row in world.questions(split, [1], 4)]
        (folder / f"{split}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_text(
        f"model_name_or_path: a2tgpo:hops-tiny\noutput_dir: {folder / 'run'}\nuse_cpu: true\nbf16: false\n"
        f"questions: {folder / 'train.jsonl'}\neval_questions: {folder / 'eval.jsonl'}\nretriever: {retriever}\n"
    )
    return path


def test_an_index_is_searched(tmp_path: Path) -> None:
    """A recipe without a corpus finds its passages in the index that it names."""
    corpus = World.generate(0, 24, 12).write_corpus(tmp_path / "corpus.jsonl")
    build_index(corpus, tmp_path / "index", IndexSettings.of("bm25"))
    config = load_recipe(str(recipe(tmp_path, tmp_path / "index")))
    task = open_task(config, RunDirectory(tmp_path / "run"))
    assert len(task.eval_questions) == 4
    found = task.search([task.eval_questions[0]["question"]])
    assert [len(passages) for passages in found] == [3]


def test_a_missing_index_is_said(tmp_path: Path) -> None:
    """A retriever that is no index fails before anything is trained."""
    with pytest.raises(IndexMismatch, match="no-index"):
        open_task(load_recipe(str(recipe(tmp_path, tmp_path / "no-index"))), RunDirectory(tmp_path / "run"))
