"""Loading questions: FlashRAG and Search-R1 rows from every kind of source, and errors that name the row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from a2tgpo.data.formats import load_questions
from a2tgpo.errors import DataError

FLASHRAG = [
    {
        "id": "q1",
        "question": "Where is the Orel?",
        "golden_answers": ["Pell", "Old Pell"],
        "hops": 2,
        "easy": True,
        "supporting_ids": [7, 9],
    },
    {"id": "q2", "question": " Who taught Vask? ", "golden_answers": ["Ina Kol"], "hops": 3, "easy": False},
]
LOADED = [
    {
        "id": "q1",
        "question": "Where is the Orel?",
        "answer": ["Pell", "Old Pell"],
        "hops": 2,
        "dataset": "towns",
        "supporting_ids": ["7", "9"],
    },
    {
        "id": "q2",
        "question": "Who taught Vask?",
        "answer": ["Ina Kol"],
        "hops": 3,
        "dataset": "towns",
        "supporting_ids": [],
    },
]


def jsonl(path: Path, *rows: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def search_r1_row(number: int, source: str, **changes: Any) -> dict[str, Any]:
    question = f"question {number} of {source}?"
    return {
        "id": f"train_{number}",
        "question": question,
        "golden_answers": [f"answer {number}", "other"],
        "data_source": source,
        "prompt": [{"role": "user", "content": f"Answer the given question. Question: {question}"}],
        "ability": "fact-reasoning",
        "reward_model": {"style": "rule", "ground_truth": {"target": [f"answer {number}", "other"]}},
        "extra_info": {"split": "train", "index": number},
        **changes,
    }


def write_form(folder: Path, form: str) -> Path:
    path = folder / f"towns{form}"
    if form == ".parquet":
        datasets.Dataset.from_list(FLASHRAG).to_parquet(path)
    elif form == ".json":
        path.write_text(json.dumps(FLASHRAG, indent=1))
    elif form == ".jsonl.gz":
        path.write_bytes(gzip.compress(jsonl(folder / "plain.jsonl", *FLASHRAG).read_bytes()))
    else:
        jsonl(path, *FLASHRAG)
    return path


@pytest.mark.parametrize("form", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_flashrag_file_in_every_form(tmp_path: Path, form: str) -> None:
    """The same FlashRAG rows give the same questions from each file form, as a path and as a string."""
    path = write_form(tmp_path, form)
    loaded = load_questions(path)
    assert loaded.to_list() == load_questions(str(path)).to_list() == LOADED
    assert loaded.column_names == ["id", "question", "answer", "hops", "dataset", "supporting_ids"]


def test_json_lines_named_json(tmp_path: Path) -> None:
    """A .json file may hold one object per line, as many published files do."""
    assert load_questions(jsonl(tmp_path / "towns.json", *FLASHRAG)).to_list() == LOADED


def test_folder_holds_one_file_per_split(tmp_path: Path) -> None:
    """A folder gives the file of the split, and the folder names the data set."""
    jsonl(tmp_path / "towns" / "train.jsonl", FLASHRAG[0])
    jsonl(tmp_path / "towns" / "dev.jsonl", FLASHRAG[1])
    assert load_questions(tmp_path / "towns").to_list() == LOADED[:1]
    assert load_questions(str(tmp_path / "towns"), split="dev").to_list() == LOADED[1:]
    assert load_questions(tmp_path / "towns" / "dev.jsonl").to_list() == LOADED[1:]
    with pytest.raises(DataError, match=r'0 files for split "test".*\[\'dev.jsonl\', \'train.jsonl\'\]'):
        load_questions(tmp_path / "towns", split="test")
    jsonl(tmp_path / "towns" / "train.json", FLASHRAG[0])
    with pytest.raises(DataError, match='2 files for split "train"'):
        load_questions(tmp_path / "towns")


def test_search_r1_parquet(tmp_path: Path) -> None:
    """Search-R1's schema loads, and its merged data sets, whose ids repeat, keep their questions apart."""
    path = tmp_path / "train.parquet"
    datasets.Dataset.from_list([search_r1_row(0, "nq"), search_r1_row(0, "hotpotqa")]).to_parquet(path)
    nq, hotpotqa = load_questions(path).to_list()
    assert nq == {
        "id": "nq/train_0",
        "question": "question 0 of nq?",
        "answer": ["answer 0", "other"],
        "hops": None,
        "dataset": "nq",
        "supporting_ids": [],
    }
    assert (hotpotqa["id"], hotpotqa["dataset"]) == ("hotpotqa/train_0", "hotpotqa")


@pytest.mark.parametrize("truth", [{"target": ["Pell"]}, {"target": "Pell"}, "Pell", ["Pell"]])
def test_answers_of_the_reward_model(tmp_path: Path, truth: object) -> None:
    """Without golden_answers the reward model's ground truth is the answer, in each of its forms."""
    row = search_r1_row(0, "nq", reward_model={"style": "rule", "ground_truth": truth})
    del row["golden_answers"]
    assert load_questions(jsonl(tmp_path / "q.jsonl", row))["answer"][0] == ["Pell"]


@pytest.mark.parametrize(
    ("value", "answers"),
    [
        ("Pell", ["Pell"]),
        (1999, ["1999"]),
        (1999.0, ["1999"]),
        ([2.5, "two and a half"], ["2.5", "two and a half"]),
        ([" Pell ", "", "Pell", "Old Pell"], ["Pell", "Old Pell"]),
    ],
)
@pytest.mark.parametrize("column", ["golden_answers", "answer"])
def test_answers_become_a_list_of_text(tmp_path: Path, column: str, value: object, answers: list[str]) -> None:
    """One answer or several, text or numbers, end as a list of distinct strings that are not blank."""
    path = jsonl(tmp_path / "q.jsonl", {"id": "a", "question": "?!", column: value})
    assert load_questions(path)["answer"][0] == answers


def test_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no file goes to the Hub with its config and split; NumPy-formatted rows load as well."""
    asked: list[tuple[object, ...]] = []

    def hub(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_list(FLASHRAG).with_format("numpy")

    monkeypatch.setattr(datasets, "load_dataset", hub)
    assert load_questions("owner/collection:towns", split="dev", where={"easy": True}).to_list() == LOADED[:1]
    assert load_questions("owner/towns").to_list() == LOADED
    assert asked == [("owner/collection", "towns", "dev"), ("owner/towns", None, "train")]


def test_hub_failure_is_chained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is neither here nor on the Hub names both, with the Hub's own reason."""

    def hub(*_: object, **__: object) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", hub)
    with pytest.raises(DataError, match=r"owner/towns.*no file or folder here.*ConnectionError: offline") as error:
        load_questions("owner/towns")
    assert isinstance(error.value.__cause__, ConnectionError)


def test_where(tmp_path: Path) -> None:
    """where keeps equal rows, and rows it drops need not be valid."""
    broken = {"id": "b", "question": "", "easy": False}
    more = [{**FLASHRAG[0], "id": f"m{i}"} for i in range(3)]
    path = jsonl(tmp_path / "towns.jsonl", broken, *FLASHRAG, *more)
    assert load_questions(path, where={"easy": True})["id"][:] == ["q1", "m0", "m1", "m2"]
    assert load_questions(path, where={"easy": True, "id": "m2"})["id"][:] == ["m2"]
    with pytest.raises(DataError, match=r"no question where \{'eazy': True\}; its columns are \['easy'"):
        load_questions(path, where={"eazy": True})


def test_missing_ids_are_row_numbers_and_hops_may_have_gaps(tmp_path: Path) -> None:
    """Rows without an id are numbered; hops that gaps turned into floats are whole numbers again."""
    rows = [
        {"question": "a?", "answer": ["x"], "hops": 2.0},
        {"question": "b?", "answer": ["y"], "hops": None},
    ]
    loaded = load_questions(jsonl(tmp_path / "q.jsonl", *rows, {**rows[0], "hops": float("nan")}))
    assert (loaded["id"][:], loaded["hops"][:]) == (["1", "2", "3"], [2, None, None])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"golden_answers": None}, r"no answer among the columns .*add \"golden_answers\""),
        ({"golden_answers": []}, r"the answers \[\] are empty; give at least one"),
        ({"golden_answers": ["", " "]}, r"are empty; give at least one"),
        ({"golden_answers": [True]}, r"the answer True is neither text nor a number"),
        ({"golden_answers": [["Pell"]]}, r"the answer \['Pell'\] is neither"),
        ({"question": "  "}, r"\"question\" is '  '; give every row a question"),
        ({"question": None}, r"\"question\" is None"),
        ({"id": "q1"}, r"id \"q1\" is taken by .*line 1"),
        ({"hops": "two"}, r"\"hops\" is 'two'; give a whole number"),
        ({"hops": 0}, r"\"hops\" is 0"),
    ],
)
def test_bad_row_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Every kind of unusable row is an error that names the file, the line and what to do."""
    path = jsonl(tmp_path / "towns.jsonl", FLASHRAG[0], {**FLASHRAG[1], **change})
    with pytest.raises(DataError, match=says) as error:
        load_questions(path)
    assert str(error.value).startswith(f"{path}, line 2")


def test_bad_row_of_parquet_is_named(tmp_path: Path) -> None:
    """A parquet file has no lines: its rows are counted from 1 and the id is given."""
    path = tmp_path / "q.parquet"
    datasets.Dataset.from_list([search_r1_row(0, "nq"), search_r1_row(1, "nq", golden_answers=[])]).to_parquet(path)
    with pytest.raises(DataError, match=r'q\.parquet, row 2 \(id "train_1"\): the answers \[\] are empty'):
        load_questions(path)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("q.jsonl", "{oops\n", r"q\.jsonl, line 1: not JSON"),
        ("q.json", "[{oops", r"q\.json: not JSON .*an array of objects"),
        ("q.json", "[3]", r"q\.json, row 1: 3 is not an object"),
        ("q.parquet", "no parquet", r"q\.parquet: not readable as parquet"),
        ("q.csv", "a,b", r"q\.csv: not a form that can be loaded; give one of \.jsonl"),
        ("q.jsonl", "", r"q\.jsonl holds no question; add some rows"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, name: str, content: str, says: str) -> None:
    """A file that cannot be read as what its name says is named, with what to do."""
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=says):
        load_questions(tmp_path / name)


@pytest.mark.parametrize("source", ["./absent", "absent.jsonl", "/no/such/place", Path("absent")])
def test_missing_path_does_not_ask_the_hub(source: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is plainly a path is reported as missing, without a call to the Hub."""
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(DataError, match="no such file or folder"):
        load_questions(source)
