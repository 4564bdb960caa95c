"""Where a run's questions and passages come from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.cli import main
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.data.world import World
from a2tgpo.errors import DataError, IndexMismatch
from a2tgpo.retrieval.build import build_index
from a2tgpo.retrieval.settings import IndexSettings
from a2tgpo.rollout.demonstration import Demonstration, Lookup, encode_demonstration
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.task import Task, open_task
from tests.run.parts import save_policy, write_recipe

PASSAGES = [
    {"id": "p1", "title": "Kelo Mitu", "text": "The mentor of Kelo Mitu is Bora Tine."},
    {"id": "p2", "title": "Bora Tine", "text": "The home of Bora Tine is Sana Lupo."},
    {"id": "p3", "title": "Sana Lupo", "text": "Sana Lupo is a town."},
]


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


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    """`rows` in a file, and its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def files_task(folder: Path, questions: list[str], eval_questions: list[str], **changes: Any) -> Task:
    """The task of a recipe with these sources of questions, three passages to search, and `changes`."""
    sources = {"questions": questions, "eval_questions": eval_questions, "corpus": lines(folder / "c.jsonl", PASSAGES)}
    config = load_recipe(str(write_recipe(folder / "recipe.yaml", folder, **sources, **changes)))
    return open_task(config, RunDirectory(folder / "run"))


def test_real_questions_are_demonstrated(tmp_path: Path) -> None:
    """A question that names its supporting passages has a demonstration of what the run's own search finds for their
    titles, as a rollout would be tokenised; one that names none has no demonstration. A demonstration of as many tokens
    as a completion may have stays; with one token less to spare there is none left, which is said."""
    rows = [
        {"question": "Where does the mentor live?", "answer": ["Sana", "Lupo"], "supporting_ids": ["p2", "p1"]},
        {"question": "Who lives there?", "answer": "Bora"},
    ]
    sources = [lines(tmp_path / "q.jsonl", rows)]
    tokenizer = build_tokenizer()
    task = files_task(tmp_path, sources, sources, max_turn_tokens=40, max_completion_length=1000)
    (encoded,) = task.demonstrations(tokenizer)
    titles = ["Bora Tine", "Kelo Mitu"]
    found = task.search(titles)
    assert all(found)
    lookups = [Lookup(f"I need to look up {title}.", title, tuple(p)) for title, p in zip(titles, found, strict=True)]
    shown = Demonstration("Where does the mentor live?", tuple(lookups), "Sana")
    assert encoded == encode_demonstration(task.agent(tokenizer), shown)

    room = len(encoded["input_ids"]) - encoded["completion_mask"].index(1)
    budget = {"max_turn_tokens": 40, "max_completion_length": room}
    assert files_task(tmp_path, sources, sources, **budget).demonstrations(tokenizer) == [encoded]
    budget["max_completion_length"] -= 1
    with pytest.raises(DataError, match="raise max_completion_length"):
        files_task(tmp_path, sources, sources, **budget).demonstrations(tokenizer)


def test_questions_without_support_cannot_be_demonstrated(tmp_path: Path) -> None:
    """A warm start on questions that name no passages ends with what to set instead, and leaves no run behind that
    would refuse the corrected command."""
    sources = [lines(tmp_path / "q.jsonl", [{"question": "Who lives there?", "answer": "Bora"}])]
    policy = str(save_policy(tmp_path / "policy"))
    with pytest.raises(DataError, match=r"supporting_ids.*set warm_start_steps: 0"):
        files_task(tmp_path, sources, sources, model_name_or_path=policy).demonstrations(build_tokenizer())
    assert main(["train", str(tmp_path / "recipe.yaml")]) == 2
    assert not RunDirectory(tmp_path / "run").config.exists()


def test_which_questions_remain(tmp_path: Path) -> None:
    """Training takes the training questions of every source and evaluation the held-out ones; `only_answerable` drops
    what this corpus cannot answer; a limit keeps the same mixed part of all sources each time, and one above their
    number keeps everything."""

    def rows(name: str) -> list[dict[str, Any]]:
        mark = [{"answerable_here": True}, {"answerable_here": False}, {}]
        return [{"id": f"{name}{i}", "question": f"{name} {i}?", "answer": "x"} | mark[i % 3] for i in range(30)]

    folder = tmp_path / "world"
    lines(folder / "train.jsonl", rows("train"))
    lines(folder / "dev.jsonl", rows("dev"))
    sources, held_out = [str(folder), lines(tmp_path / "more.jsonl", rows("more"))], [str(folder)]

    def remaining(limit: int | None, only: bool = True) -> tuple[list[str], list[str]]:
        limits = {"n_train_questions": limit, "n_eval_questions": limit}
        task = files_task(tmp_path, sources, held_out, only_answerable=only, **limits)
        assert task.train_dataset["prompt"][:] == task.train_dataset["question"][:]
        return list(task.train_dataset["id"]), [row["id"] for row in task.eval_questions]

    train, held = ({f"{name}{i}" for name in names for i in range(0, 30, 3)} for names in (("train", "more"), ("dev",)))
    for limit in (None, 100):
        every = remaining(limit)
        assert (len(every[0]), len(every[1])) == (20, 10)
        assert set(every[0]) == train and set(every[1]) == held
    some = remaining(8)
    assert some == remaining(8)
    assert len(set(some[0])) == len(some[0]) == len(some[1]) == 8
    assert set(some[0]) < train and set(some[1]) < held
    assert {name.rstrip("0123456789") for name in some[0]} == {"train", "more"}
    assert [len(ids) for ids in remaining(None, only=False)] == [60, 30]
