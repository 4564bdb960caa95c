"""Load questions in the FlashRAG and Search-R1 forms from disk or from the Hugging Face Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow import ArrowException

from a2tgpo.errors import DataError
from a2tgpo.files import read_jsonl

_FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answer": datasets.List(datasets.Value("string")),
        "hops": datasets.Value("int64"),
        "dataset": datasets.Value("string"),
        "supporting_ids": datasets.List(datasets.Value("string")),
    }
)
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")
_SPLIT_NAMES = ("train", "dev", "validation", "test")

# A row and where it stands, for error messages: "questions.jsonl, line 3".
_Rows = Iterator[tuple[str, dict[str, Any]]]


def load_questions(
    source: str | Path,
    *,
    split: str = "train",
    where: Mapping[str, object] | None = None,
) -> datasets.Dataset:
    """Load questions with their accepted answers.

    A row has a `question`, its answers in `golden_answers` (FlashRAG), `answer`, or
    `reward_model.ground_truth.target` (Search-R1), one or a list of them, and may have `id`, `hops`, and
    `dataset` or `data_source`. Search-R1 files merge data sets whose ids repeat, so there the id becomes
    `data_source/id`; a row without an id gets its number, counted from 1.

    Args:
        source: a .jsonl, .jsonl.gz, .json or .parquet file; a folder with one such file per split; or a data
            set on the Hub, as `owner/name` or `owner/name:config`.
        split: which file of the folder, or which split on the Hub; a file is loaded whole.
        where: keep only the rows whose columns equal these values, such as `{"answerable_here": True}`. Rows
            it drops are not checked.

    Returns:
        Columns `id`, `question`, `answer` (accepted answers, the canonical one first), `hops` (None where the
        source does not say), `dataset` and `supporting_ids` (passages that lead to the answer; empty where the
        source names none).

    Raises:
        DataError: the source cannot be read, a kept row has no question or no answer or repeats an id (names
            the line or row), or no row is left.
    """
    rows, default_name = _open_source(source, split)
    conditions = dict(where or {})
    kept: list[dict[str, Any]] = []
    place_of_id: dict[str, str] = {}
    columns: set[str] = set()
    for number, (place, row) in enumerate(rows, start=1):
        columns.update(row)
        if any(_plain(row.get(column)) != value for column, value in conditions.items()):
            continue
        question = _question_row(row, place, default_name, number)
        earlier = place_of_id.setdefault(question["id"], place)
        if earlier != place:
            raise DataError(f'{place}: id "{question["id"]}" is taken by {earlier}; give every question its own id')
        kept.append(question)
    if not kept:
        advice = f" where {conditions}; its columns are {sorted(columns)}" if conditions else "; add some rows"
        raise DataError(f"{source} holds no question{advice}")
    return datasets.Dataset.from_list(kept, features=_FEATURES)


def _open_source(source: str | Path, split: str) -> tuple[_Rows, str]:
    path = Path(source).expanduser()
    if path.is_dir():
        path = _split_file(path, split)
    if path.is_file():
        stem = path.name.split(".")[0]
        return _file_rows(path), path.resolve().parent.name if stem in (split, *_SPLIT_NAMES) else stem
    if isinstance(source, Path) or source.endswith(_SUFFIXES) or source.startswith((".", "/", "~")):
        raise DataError(f"{source}: no such file or folder; give a file, a folder or a Hub data set (owner/name)")
    return _hub_rows(source, split), source.partition(":")[2] or source.rpartition("/")[2]


def _split_file(folder: Path, split: str) -> Path:
    found = [folder / (split + suffix) for suffix in _SUFFIXES if (folder / (split + suffix)).is_file()]
    if len(found) != 1:
        present = sorted(file.name for file in folder.iterdir() if file.name.endswith(_SUFFIXES))
        raise DataError(
            f'{folder}: {len(found)} files for split "{split}", not one; the folder holds {present}. '
            "Name another split, or give the file itself"
        )
    return found[0]


def _file_rows(path: Path) -> _Rows:
    if path.suffix == ".parquet":
        return _numbered(path, _parquet_rows(path))
    if path.suffix == ".json" and path.read_bytes().lstrip()[:1] == b"[":
        return _numbered(path, _array_rows(path))
    if path.name.endswith(_SUFFIXES):
        return ((f"{path}, line {number}", row) for number, row in read_jsonl(path, DataError))
    raise DataError(f"{path}: not a form that can be loaded; give one of {', '.join(_SUFFIXES)}")


def _parquet_rows(path: Path) -> Iterator[Any]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (OSError, ArrowException) as failure:
        raise DataError(f"{path}: not readable as parquet ({failure}); write it again") from failure


def _array_rows(path: Path) -> Iterator[Any]:
    try:
        return iter(json.loads(path.read_bytes()))
    except ValueError as failure:
        raise DataError(f"{path}: not JSON ({failure}); write an array of objects") from failure


def _hub_rows(source: str, split: str) -> _Rows:
    name, _, config = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, config or None, split=split)
    except Exception as failure:  # the Hub client raises its own, requests' and the file system's errors
        raise DataError(
            f'{source}, split "{split}": no file or folder here, and not loaded from the Hub '
            f"({type(failure).__name__}: {failure}); check the path, the name, the split and the connection"
        ) from failure
    return _numbered(source, loaded)


def _numbered(source: object, rows: Any) -> _Rows:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{source}, row {number}: {row!r} is not an object; write an array of objects")
        yield f"{source}, row {number}", row


def _question_row(row: dict[str, Any], place: str, default_name: str, number: int) -> dict[str, Any]:
    origin = row.get("data_source")
    identifier = str(number if row.get("id") is None else row["id"])
    place = f'{place} (id "{identifier}")'
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f'{place}: "question" is {question!r}; give every row a question')
    return {
        "id": f"{origin}/{identifier}" if origin else identifier,
        "question": question.strip(),
        "answer": _answers(row, place),
        "hops": _hops(row.get("hops"), place),
        "dataset": str(row.get("dataset") or origin or default_name),
        "supporting_ids": [str(identifier) for identifier in _plain(row.get("supporting_ids")) or ()],
    }


def _answers(row: dict[str, Any], place: str) -> list[str]:
    found = next((row[name] for name in ("golden_answers", "answer") if row.get(name) is not None), None)
    if found is None:
        found = _search_r1_target(row)
    if found is None:
        raise DataError(
            f'{place}: no answer among the columns {sorted(row)}; add "golden_answers", a list of the accepted answers'
        )
    found = _plain(found)
    texts = [_answer_text(value, place) for value in (found if isinstance(found, list) else [found])]
    answers = list(dict.fromkeys(text for text in texts if text))
    if not answers:
        raise DataError(f"{place}: the answers {found!r} are empty; give at least one, or remove the row")
    return answers


def _search_r1_target(row: dict[str, Any]) -> Any:
    reward_model = row.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    return truth.get("target") if isinstance(truth, dict) else truth


def _answer_text(value: object, place: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a column of whole numbers with gaps is stored as floats
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{place}: the answer {value!r} is neither text nor a number; write it as text")


def _hops(value: Any, place: str) -> int | None:
    value = _plain(value)
    if value is None or value != value:  # NaN: how a number column marks a gap
        return None
    if isinstance(value, (int, float)) and value == int(value) and value > 0:
        return int(value)
    raise DataError(f'{place}: "hops" is {value!r}; give a whole number from 1, or leave it out')


def _plain(value: Any) -> Any:
    """Turn NumPy arrays and scalars, as parquet and formatted data sets hold them, into plain Python values."""
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
