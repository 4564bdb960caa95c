"""Gold answers as data sets hold them: one reader for the loader, the trainer, the reward and the report."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from a2tgpo.data.formats import load_questions
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.errors import DataError
from a2tgpo.gold import gold_aliases, read_aliases
from a2tgpo.rewards import exact_match_reward
from a2tgpo.signals.answer_likelihood import AnswerScaffold

READ = [
    ("Bora", ["Bora"]),
    ("  Bora ", ["Bora"]),
    (12, ["12"]),
    (12.0, ["12"]),
    (0, ["0"]),
    (-2.5, ["-2.5"]),
    (Decimal("3.50"), ["3.50"]),
    (np.int64(7), ["7"]),
    (np.array([1984.0, np.nan]), ["1984"]),
    (["Bora", "", " ", None, float("nan"), float("inf"), "Bora", "bora"], ["Bora", "bora"]),
    (("12", 12, 13), ["12", "13"]),
    ({"value": "Ina Kol", "aliases": ["I. Kol", "Ina Kol"], "normalized_aliases": ["ina kol"]}, ["Ina Kol", "I. Kol"]),
    ({"value": "Ina Kol", "aliases": None}, ["Ina Kol"]),
    ({"text": ["Ina", "Kol"], "answer_start": [3, 9]}, ["Ina", "Kol"]),
    ({"target": np.array(["Ina"], dtype=object)}, ["Ina"]),
    ("Bora \ud83d", ["Bora \ufffd"]),
    ("\ud83d\ude00", ["\U0001f600"]),
    (["[2, 5]"], ["[2, 5]"]),
    ("[0, 1)", ["[0, 1)"]),
    ("[sic]", ["[sic]"]),
    ("(3, 4)", ["(3, 4)"]),
]


@pytest.mark.parametrize(("value", "aliases"), READ, ids=lambda value: repr(value)[:40])
def test_what_can_be_read(value: object, aliases: list[str]) -> None:
    """Numbers become text, what is missing is left out, objects give their texts, half a surrogate pair is U+FFFD."""
    assert gold_aliases(value, "row 3") == aliases


@pytest.mark.parametrize(
    "value", [None, "", " \n", [], [None], ["", " "], float("nan"), float("-inf"), [float("nan")], {"value": ""}]
)
def test_nothing_is_missing_and_not_an_answer(value: object) -> None:
    """No answer is an error that names the place; where answers are optional it is an empty list."""
    with pytest.raises(DataError, match=r"^row 3: the answers .* are empty"):
        gold_aliases(value, "row 3")
    assert read_aliases(value, "row 3") == []


@pytest.mark.parametrize(
    "value",
    [
        "['Paris', 'Lutetia']",
        '["Paris"]',
        "[ 'Paris' ]",
        "['Paris' 'Lutetia']",
        "[1984, 1985]",
        "[None, 'x']",
        "[]",
        ["['Paris', 'Lutetia']"],
        '[["a"]]',
    ],
)
def test_the_text_of_a_list_is_refused(value: object) -> None:
    """The quotes of such a text can be read in more than one way; no part of it becomes an answer by accident."""
    with pytest.raises(DataError, match=r"row 3: the answer .* is the text of a list; write a list"):
        gold_aliases(value, "row 3")


@pytest.mark.parametrize("value", [True, [False], [["a"]], b"Bora", {"answer": "x"}, object()])
def test_other_types_are_refused(value: object) -> None:
    """What is neither text nor number is an error that names the row, not its representation."""
    with pytest.raises(DataError, match=r"^row 3: the answer "):
        gold_aliases(value, "row 3")


def write(path: Path, *rows: dict[str, Any], bom: bool = False) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows) if path.suffix == ".jsonl" else json.dumps(rows)
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.encode())
    return path


MUSIQUE = [
    {
        "id": "2hop__1",
        "question": "Where is the firm?",
        "answer": "NYC",
        "answer_aliases": ["New York", ""],
        "answerable": True,
    },
    {"id": "2hop__2", "question": "Where is it?", "answer": "Pell", "answer_aliases": [], "answerable": False},
]
VERL = {
    "data_source": "searchR1_nq",
    "prompt": [{"role": "user", "content": "Question: who wrote it?"}],
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Ina Kol", "I. Kol"]}},
    "extra_info": {"index": 0, "question": "who wrote it?"},
}


def test_rows_as_their_authors_publish_them(tmp_path: Path) -> None:
    """MuSiQue's aliases count, its unanswerable rows are not asked; HotpotQA's _id, TriviaQA's object, verl's row."""

    def load(name: str, *rows: dict[str, Any]) -> list[tuple[str, list[str]]]:
        return [(row["id"], row["answer"]) for row in load_questions(write(tmp_path / f"{name}.jsonl", *rows))]

    assert load("musique", *MUSIQUE) == [("2hop__1", ["NYC", "New York"])]
    assert load("hotpotqa", {"_id": "5a8b", "question": "Both towns?", "answer": "yes"}) == [("5a8b", ["yes"])]
    trivia = {"question_id": "tc_1", "question": "Who?", "answer": {"value": "Ina", "aliases": ["I."]}}
    assert load("triviaqa", trivia) == [("tc_1", ["Ina", "I."])]
    assert load("verl", VERL) == [("searchR1_nq/1", ["Ina Kol", "I. Kol"])]


def test_verls_parquet(tmp_path: Path) -> None:
    """verl's own file, with the question in extra_info only, gives its question and answers."""
    datasets.Dataset.from_list([VERL, VERL]).to_parquet(tmp_path / "train.parquet")
    found = load_questions(tmp_path / "train.parquet")
    assert found["question"][:] == ["who wrote it?"] * 2
    assert found["answer"][:] == [["Ina Kol", "I. Kol"]] * 2
    assert found["id"][:] == ["searchR1_nq/1", "searchR1_nq/2"]


@pytest.mark.parametrize("name", ["q.json", "q.jsonl"])
def test_a_byte_order_mark(tmp_path: Path, name: str) -> None:
    """A BOM before an array or before the first line is no part of it."""
    path = write(tmp_path / name, {"id": "a", "question": "Who?", "answer": "x"}, bom=True)
    assert load_questions(path)["id"][:] == ["a"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": float("nan")}, "no answer among"),
        ({"answer": float("inf")}, "no answer among"),
        ({"answer": "['Paris', 'Lutetia']"}, "text of a list"),
        ({"supporting_ids": "p12"}, r"\"supporting_ids\" is 'p12'; give a list of ids"),
        ({"supporting_ids": [["p12"]]}, r"\"supporting_ids\" is \['p12'\]"),
        ({"supporting_ids": [True]}, r"\"supporting_ids\" is True"),
        ({"id": [1]}, r'"id" is \[1\]'),
        ({"question": 7}, '"question" is 7'),
        ({"question": float("nan")}, '"question" is nan'),
        ({"hops": float("inf"), "answer": ""}, "are empty"),
        ({"hops": True}, '"hops" is True'),
        ({"dataset": {"x": 1}}, '"dataset" is .*must be a text'),
        ({"data_source": ["nq"]}, '"data_source" is .*must be a text'),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """The file and the line stand before what is wrong."""
    row = {"id": "a", "question": "Who?", "answer": "x"}
    path = write(tmp_path / "q.jsonl", row, {**row, "id": "b", **change})
    with pytest.raises(DataError, match=rf"q\.jsonl, line 2.*{says}"):
        load_questions(path)


def test_ids_that_are_numbers(tmp_path: Path) -> None:
    """Whole numbers become their digits, also where a gap made the column floats; a gap takes the row's number."""
    rows = [{"id": value, "question": "Who?", "answer": "x"} for value in (7, 8.0, float("nan"), None)]
    assert load_questions(write(tmp_path / "q.jsonl", *rows))["id"][:] == ["7", "8", "3", "4"]


def test_half_a_surrogate_pair_in_a_question(tmp_path: Path) -> None:
    """Question, answer and id are text that can be encoded."""
    (row,) = load_questions(
        write(tmp_path / "q.jsonl", {"id": "a\udc00", "question": "Who is \ud83d?", "answer": ["\ud83d"]})
    )
    assert (row["id"], row["question"], row["answer"]) == ("a\ufffd", "Who is \ufffd?", ["\ufffd"])


def test_the_reward_reads_the_same() -> None:
    """A column of numbers, of lists with gaps and of objects is scored as the loader would have read it."""
    answers: Any = [12, [12.0, None], {"value": "twelve", "aliases": ["12"]}, ["13", ""]]
    response = "<think> twelve </think> <answer> \\boxed{12} </answer>"
    rewards = exact_match_reward([response] * 4, answers)
    assert rewards == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("answer", ["北京", "東京", "bora 京"])
def test_an_answer_of_unknown_tokens_is_refused(answer: str) -> None:
    """What the tokenizer cannot spell is refused: 北京 and 東京 would otherwise have the same likelihood."""
    scaffold = AnswerScaffold("<answer> \\boxed{ {answer} } </answer>")
    tokenizer = build_tokenizer()
    assert any(scaffold.encode(tokenizer, "bora").is_answer)
    with pytest.raises(ValueError, match=r"can only write as <\|unknown\|>"):
        scaffold.encode(tokenizer, answer)
