"""The answers of a run on disk: nothing lost, nothing mixed, nothing torn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from a2tgpo.errors import DataError, RecipeError
from a2tgpo.evaluate.answers_file import open_answers, read_answers
from tests.evaluate.outcomes import outcome

SETTINGS = {"model": "m", "temperature": 0.0, "system_prompt": None}


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    """Every field, line by line as it came, also text that is not ASCII; a folder and its file read the same."""
    first = outcome(id="q1", text="<think> Zoë\u2028 </think>\n", prediction=None, queries=["a", "b"])
    second = replace(first, sample=1)
    with open_answers(tmp_path / "run", SETTINGS) as answers:
        for added in (first, second):
            answers.add(added)
            assert (tmp_path / "run" / "answers.jsonl").read_text(encoding="utf-8").endswith("}\n")
    with open_answers(tmp_path / "run", SETTINGS) as answers:
        assert list(answers.outcomes.values()) == [first, second] and answers.dropped == 0
        assert answers.settled((first.dataset, "q1", 1)) and not answers.settled((first.dataset, "q1", 2))
    assert read_answers(tmp_path / "run") == read_answers(tmp_path / "run" / "answers.jsonl") == [first, second]


@pytest.mark.parametrize("torn", ['{"id": "q2", "ques', "\x00\x00\x00", '{"id": "q2"}'])
def test_a_torn_last_line_is_dropped_and_counted(tmp_path: Path, torn: str) -> None:
    """Only what has no line end, so that what follows stands on a line of its own."""
    with open_answers(tmp_path, SETTINGS) as answers:
        answers.add(outcome(id="q1"))
    with (tmp_path / "answers.jsonl").open("a", encoding="utf-8") as file:
        file.write(torn)
    with open_answers(tmp_path, SETTINGS) as answers:
        assert answers.dropped == len(torn) and len(answers.outcomes) == 1
        answers.add(outcome(id="q2"))
    assert [read.id for read in read_answers(tmp_path)] == ["q1", "q2"]


def test_damage_elsewhere_is_an_error(tmp_path: Path) -> None:
    """A line that is no outcome, but has an end, was not torn by a crash: it is named, and nothing is deleted."""
    path = tmp_path / "answers.jsonl"
    for line in ("garbage", '{"id": "q1"}'):
        path.write_text(line + "\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"answers\.jsonl, line 1"), open_answers(tmp_path, SETTINGS):
            pass
        assert path.read_text(encoding="utf-8") == line + "\n"


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    """With both values; the same settings go on."""
    with open_answers(tmp_path, SETTINGS):
        pass
    with (
        pytest.raises(RecipeError, match=r"temperature was 0\.0 and is 0\.7; top_k was None and is 3\. Choose another"),
        open_answers(tmp_path, SETTINGS | {"temperature": 0.7, "top_k": 3}),
    ):
        pass
    with open_answers(tmp_path, dict(SETTINGS)):
        pass
    assert json.loads((tmp_path / "settings.json").read_text(encoding="utf-8")) == SETTINGS


def test_two_processes_do_not_write_to_one_folder(tmp_path: Path) -> None:
    """The second is refused; once the first is done, it may."""
    with (
        open_answers(tmp_path, SETTINGS),
        pytest.raises(RecipeError, match="another process"),
        open_answers(tmp_path, SETTINGS),
    ):
        pass
    with open_answers(tmp_path, SETTINGS):
        pass


def test_failures_are_asked_again_and_replaced(tmp_path: Path) -> None:
    """What the tool or the model server failed is not settled; its later answer counts, and both lines stay."""
    for termination, settled in (("tool_failed", False), ("model_failed", False), ("malformed", True)):
        folder = tmp_path / termination
        failed = outcome(termination=termination, prediction=None)
        with open_answers(folder, SETTINGS) as answers:
            answers.add(failed)
            assert answers.settled((failed.dataset, failed.id, 0)) is settled
            answers.add(outcome())
        assert read_answers(folder) == [outcome()]
        assert (folder / "answers.jsonl").read_text(encoding="utf-8").count("\n") == 2


def test_a_folder_without_answers_is_named(tmp_path: Path) -> None:
    """To compare it is a mistake."""
    with pytest.raises(DataError, match="no answers of `a2tgpo eval`"):
        read_answers(tmp_path)
