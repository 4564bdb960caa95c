"""Questions in, outcomes out: played rollouts are judged, summed up by hops, and survive the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.evaluate.intervals import Proportion
from a2tgpo.evaluate.questions import Outcome, Summary, evaluate_questions, read_outcomes, write_outcomes
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.protocol import answer_turn, search_turn
from tests.rollout.scripted import ScriptedBackend

SEARCH = search_turn("find it", "kelo mitu")


def outcome(**changes: Any) -> Outcome:
    """A right answer to a one-hop question after one search, with `changes`."""
    values: dict[str, Any] = dict(
        id="q",
        question="Who?",
        answer=["Bora", "Bo"],
        hops=1,
        dataset="hops",
        prediction="bora",
        correct=True,
        termination="answered",
        reason="",
        searches=1,
        queries=["kelo"],
        policy_tokens=9,
        total_tokens=40,
        text="…",
    )
    return Outcome(**values | changes)


def row(index: int, answer: list[str], hops: int | None) -> dict[str, Any]:
    """A question row as the loaders make it."""
    return {"id": f"q{index}", "question": f"Who is {index}?", "answer": answer, "hops": hops, "dataset": "hops"}


def test_played_rollouts_are_judged() -> None:
    """Each question gets one rollout, in order over all batches; right, wrong, aliased and malformed answers and the
    searches made for them are recorded as they happened, and progress counts every question once."""
    tokenizer = build_tokenizer()
    passage = Passage("p1", "Kelo", "The mentor of Kelo is Bora.")
    agent = SearchAgent(tokenizer, lambda queries: [[passage] for _ in queries], RolloutLimits())
    scripts = [
        [SEARCH, SEARCH, answer_turn("bora")],
        [answer_turn("kelo")],
        ["no tags at all"],
        [SEARCH, answer_turn("the tine!")],
    ]
    rows = [row(0, ["Bora"], 2), row(1, ["Bora"], 1), row(2, ["Bora"], 1), row(3, ["Bora", "Tine"], None)]
    batches = [ScriptedBackend(tokenizer, scripts[:3]), ScriptedBackend(tokenizer, scripts[3:])]
    done: list[int] = []
    outcomes = evaluate_questions(
        agent,
        lambda *asked: batches[len(done)](*asked),
        rows,
        batch_size=3,
        progress=done.append,
    )
    assert done == [3, 1]
    assert [o.id for o in outcomes] == ["q0", "q1", "q2", "q3"]
    assert [o.correct for o in outcomes] == [True, False, False, True]
    assert [o.prediction for o in outcomes] == ["bora", "kelo", None, "the tine!"]
    assert [o.termination for o in outcomes] == ["answered", "answered", "malformed", "answered"]
    assert [o.searches for o in outcomes] == [2, 0, 0, 1]
    assert outcomes[3].policy_tokens == sum(len(tokenizer(turn)["input_ids"]) for turn in scripts[3])
    assert all(o.total_tokens > o.policy_tokens > 0 for o in outcomes)
    assert outcomes[0].queries == ["kelo mitu"] * 2
    assert outcomes[0].text.count("<result>") == 2
    assert "expected" in outcomes[2].reason


def test_summary_by_hops() -> None:
    """Shares overall and per hop count are counts over counts; a question without a hop count is in the overall share
    alone; rates are means over all; every way to end is listed, met or not."""
    summary = Summary.of(
        [
            outcome(),
            outcome(correct=False, prediction="kelo", searches=0),
            outcome(hops=3, searches=4),
            outcome(hops=None, correct=False, prediction=None, termination="malformed", searches=0),
        ]
    )
    assert summary.exact_match == Proportion(2, 4)
    assert summary.by_hops == {1: Proportion(1, 2), 3: Proportion(1, 1)}
    assert summary.format_rate == 0.75
    assert summary.searches == 1.25
    assert summary.terminations == {
        "answered": 3,
        "out_of_turns": 0,
        "out_of_tokens": 0,
        "malformed": 1,
        "tool_failed": 0,
    }


def test_summary_as_json_is_plain_json() -> None:
    """Its JSON is strict, carries the interval, and keeps hop counts as keys."""
    text = json.dumps(Summary.of([outcome(), outcome(hops=2, correct=False)]).as_json(), allow_nan=False)
    read = json.loads(text)
    low, high = Proportion(1, 2).interval
    assert read["exact_match"] == {"value": 0.5, "low": low, "high": high, "hits": 1, "total": 2}
    assert list(read["by_hops"]) == ["1", "2"]


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
