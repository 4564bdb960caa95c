"""Benchmarks by name and by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from a2tgpo.errors import DataError, RecipeError
from a2tgpo.evaluate.benchmarks import SPLITS, Benchmark, load_benchmark, parse_benchmarks
from a2tgpo.evaluate.scores import GROUPS

ALL: dict[str, Any] = {"n_questions": None, "only_answerable": False, "seed": 0}


def write(path: Path, n: int) -> Path:
    """`n` questions in FlashRAG's form, every second one answerable."""
    rows = [
        {"id": f"q{i}", "question": f"Who is {i}?", "golden_answers": [f"a{i}"], "answerable_here": i % 2 == 0}
        for i in range(n)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_names_are_those_of_the_table() -> None:
    """The seven benchmarks of the paper's Table 1, each on a split that has answers."""
    assert set(SPLITS) == {name for group in GROUPS.values() for name in group} and len(SPLITS) == 7


def test_a_name_alone_comes_from_the_hub() -> None:
    """As a configuration of FlashRAG's collection, dev where the test answers are not public; a source may follow."""
    assert parse_benchmarks("musique, nq=my/nq.jsonl,mine=my/own.parquet") == (
        Benchmark("musique", "RUC-NLPIR/FlashRAG_datasets:musique", "dev"),
        Benchmark("nq", "my/nq.jsonl", "test"),
        Benchmark("mine", "my/own.parquet", "test"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "names none"), ("hotpot", "not one of hotpotqa"), ("nq=a.jsonl,nq", "named twice"), ("mine=", "NAME=FILE")],
)
def test_a_list_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    """Before anything is loaded."""
    with pytest.raises(RecipeError, match=message):
        parse_benchmarks(text)


def test_the_hub_is_asked_for_the_right_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """All seven, by the calls that reach the Hub's client (a stand-in: the Hub needs a network)."""
    called = []

    def load_dataset(name: str, config: str, split: str) -> datasets.Dataset:
        called.append((name, config, split))
        return datasets.Dataset.from_list([{"id": "1", "question": "Who?", "golden_answers": ["a"]}])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for benchmark in parse_benchmarks(",".join(SPLITS)):
        (row,) = load_benchmark(benchmark, **ALL)
        assert row["dataset"] == benchmark.name
    assert called == [("RUC-NLPIR/FlashRAG_datasets", name, split) for name, split in SPLITS.items()]


def test_a_folder_holds_a_file_per_split(tmp_path: Path) -> None:
    """The benchmark's own split is taken; its name stands in every row, whatever the folder is called."""
    write(tmp_path / "folder" / "dev.jsonl", 3)
    write(tmp_path / "folder" / "train.jsonl", 2)
    rows = load_benchmark(*parse_benchmarks(f"musique={tmp_path / 'folder'}"), **ALL)
    assert [(row["id"], row["dataset"], row["answer"]) for row in rows] == [
        (f"q{i}", "musique", [f"a{i}"]) for i in range(3)
    ]


def test_a_subset_is_random_repeatable_and_in_order(tmp_path: Path) -> None:
    """The same seed draws the same questions, another others; more than there are is all."""
    (benchmark,) = parse_benchmarks(f"nq={write(tmp_path / 'nq.jsonl', 40)}")
    subsets = [
        [row["id"] for row in load_benchmark(benchmark, n_questions=10, only_answerable=False, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert subsets[0] == subsets[1] != subsets[2]
    assert [len(subset) for subset in subsets] == [10, 10, 10]
    assert subsets[0] == sorted(set(subsets[0]), key=lambda name: int(name[1:]))
    assert len(load_benchmark(benchmark, n_questions=41, only_answerable=False, seed=0)) == 40


def test_only_answerable_questions(tmp_path: Path) -> None:
    """Counted before the subset is drawn."""
    (benchmark,) = parse_benchmarks(f"nq={write(tmp_path / 'nq.jsonl', 40)}")
    rows = load_benchmark(benchmark, n_questions=20, only_answerable=True, seed=0)
    assert [row["id"] for row in rows] == [f"q{i}" for i in range(0, 40, 2)]


def test_a_file_without_answers_is_refused(tmp_path: Path) -> None:
    """With the line and what to add: scores of it would all be 0."""
    path = tmp_path / "nq.jsonl"
    path.write_text('{"id": "q1", "question": "Who?"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 1.*no answer.*golden_answers"):
        load_benchmark(*parse_benchmarks(f"nq={path}"), **ALL)
