"""Load questions in the FlashRAG and Search-R1 forms from disk or from the Hugging Face Hub."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow import ArrowException

from a2tgpo.errors import DataError
from a2tgpo.files import parse_json, read_jsonl
from a2tgpo.gold import gold_aliases, is_missing, plain_value, read_aliases

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
_ID_COLUMNS = ("id", "_id", "question_id")
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

    A row has a `question` (in verl's files, `extra_info.question`) and its answers in `golden_answers` (FlashRAG),
    `answer` (with MuSiQue's `answer_aliases`), or `reward_model.ground_truth` (Search-R1), read by `gold_aliases`. It
    may have `id`, `_id` (HotpotQA, 2Wiki) or `question_id` (TriviaQA), `hops`, `supporting_ids`, and `dataset` or
    `data_source`. Search-R1 files merge data sets whose ids repeat, so there the id becomes `data_source/id`; a row
    without an id gets its number, counted from 1. MuSiQue's rows with `answerable: false` are left out.

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
        if any(plain_value(row.get(column)) != value for column, value in conditions.items()):
            continue
        if plain_value(row.get("answerable")) is False:
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


def load_rows(source: str | Path, *, split: str = "train") -> list[dict[str, Any]]:
    """Load rows with whatever columns they have, as environments read them; `dataset` is the source's name.

    Args:
        source, split: see `load_questions`.

    Raises:
        DataError: the source cannot be read, or has no row.
    """
    rows, name = _open_source(source, split)
    found = [{"dataset": name} | {column: plain_value(value) for column, value in row.items()} for _, row in rows]
    if not found:
        raise DataError(f"{source} holds no row; add some")
    return found


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
    if path.suffix == ".json" and path.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"[":
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
        return iter(parse_json(path.read_bytes()))
    except (ValueError, RecursionError) as failure:
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
    origin = _optional_text(row, "data_source", place)
    identifier = _identifier(row, number, place)
    place = f'{place} (id "{identifier}")'
    return {
        "id": f"{origin}/{identifier}" if origin else identifier,
        "question": _question(row, place),
        "answer": _answers(row, place),
        "hops": _hops(row.get("hops"), place),
        "dataset": _optional_text(row, "dataset", place) or origin or default_name,
        "supporting_ids": _supporting_ids(row, place),
    }


def _identifier(row: dict[str, Any], number: int, place: str) -> str:
    found = (plain_value(row.get(name)) for name in _ID_COLUMNS)
    value = next((value for value in found if not is_missing(value)), number)
    return _id_text(value, '"id"', place)


def _optional_text(row: dict[str, Any], name: str, place: str) -> str | None:
    value = plain_value(row.get(name))
    return None if is_missing(value) or value == "" else _id_text(value, f'"{name}"', place)


def _id_text(value: object, name: str, place: str) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise DataError(f"{place}: {name} is {value!r}; it must be a text or a whole number")
    return str(value)


def _question(row: dict[str, Any], place: str) -> str:
    question, extra = row.get("question"), row.get("extra_info")
    if question is None and isinstance(extra, dict):
        question = extra.get("question")
    if not isinstance(question, str) or not question.strip():
        raise DataError(f'{place}: "question" is {question!r}; give every row a question')
    return question.strip()


def _answers(row: dict[str, Any], place: str) -> list[str]:
    reward_model = row.get("reward_model")
    truth = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    columns = (plain_value(value) for value in (row.get("golden_answers"), row.get("answer"), truth))
    stated = next((value for value in columns if not is_missing(value)), None)
    if stated is None:
        raise DataError(
            f'{place}: no answer among the columns {sorted(row)}; add "golden_answers", a list of the accepted answers'
        )
    return list(dict.fromkeys([*gold_aliases(stated, place), *read_aliases(row.get("answer_aliases"), place)]))


def _supporting_ids(row: dict[str, Any], place: str) -> list[str]:
    value = plain_value(row.get("supporting_ids"))
    if is_missing(value):
        return []
    if not isinstance(value, (list, tuple)):
        raise DataError(f'{place}: "supporting_ids" is {value!r}; give a list of ids')
    return [_id_text(plain_value(item), '"supporting_ids"', place) for item in value]


def _hops(value: Any, place: str) -> int | None:
    value = plain_value(value)
    if is_missing(value):
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value) and value > 0:
        return int(value)
    raise DataError(f'{place}: "hops" is {value!r}; give a whole number from 1, or leave it out')
