"""The record of an answered question: its scores, and its way over the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from a2tgpo.evaluate.outcome import Outcome, read_outcomes, write_outcomes
from tests.evaluate.outcomes import outcome


def scored(prediction: str | None, answers: list[str], **changes: Any) -> Outcome:
    """An outcome whose scores are computed."""
    row = {"id": "q", "question": "Who?", "answer": answers, "hops": 2, "dataset": "hops"}
    rollout = dict(termination="answered", reason="", searches=1, queries=["kelo"], policy_tokens=9, total_tokens=40)
    return Outcome.of(row, prediction=prediction, text="…", **rollout | changes)


@pytest.mark.parametrize(
    ("prediction", "correct", "f1", "contains"),
    [
        ("the Bora.", True, 1.0, True),
        ("Bora of Tine", False, 0.5, True),  # 2·1 / (3 + 1)
        ("tine", False, 0.0, False),
        (None, False, 0.0, False),
    ],
)
def test_scores_come_from_the_prediction(prediction: str | None, correct: bool, f1: float, contains: bool) -> None:
    """Exact match, F1 and containment over all aliases; no prediction scores nothing."""
    found = scored(prediction, ["Kelo", "Bora"])
    assert (found.correct, found.f1, found.contains) == (correct, f1, contains)


def test_a_record_of_a_question_and_its_rollout() -> None:
    """What the row and the caller say is kept as said, and a rollout is sample 0 unless told otherwise."""
    assert scored("bora", ["Bora", "Bo"]) == outcome(hops=2)
    failed = scored(None, ["Bora"], termination="malformed", reason="no tags", sample=3)
    assert (failed.termination, failed.reason, failed.sample) == ("malformed", "no tags", 3)


def test_an_empty_answer_is_right_about_nothing() -> None:
    """Not even where normalisation leaves nothing of an alias either."""
    empty = scored("", ["A"])
    assert (empty.correct, empty.f1, empty.contains) == (False, 0.0, False)


def test_outcomes_survive_the_disk(tmp_path: Path) -> None:
    """What is read is what was written, unicode, line breaks and missing values included, one line an outcome."""
    written = [outcome(text="<think> é\n\u2028 </think>"), outcome(hops=None, prediction=None, correct=False)]
    path = tmp_path / "eval" / "before_greedy.jsonl"
    write_outcomes(path, written)
    assert read_outcomes(path) == written
    assert path.read_bytes().count(b"\n") == 2
    assert "é" in path.read_text(encoding="utf-8")


def test_half_an_evaluation_leaves_no_file(tmp_path: Path) -> None:
    """Interrupted in the middle, no file has the name, so a resumed run evaluates anew; the next one is whole."""
    path = tmp_path / "before.jsonl"

    def interrupted():  # type: ignore[no-untyped-def]
        yield outcome()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_outcomes(path, interrupted())
    assert not path.exists()
    write_outcomes(path, [outcome()])
    assert len(read_outcomes(path)) == 1
