"""Questions in, outcomes out: played rollouts are judged and summed up by hops."""

from __future__ import annotations

import json
from typing import Any

import pytest

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.evaluate.questions import Summary, evaluate_questions
from a2tgpo.evaluate.statistics import Proportion
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.protocol import answer_turn, search_turn
from tests.evaluate.outcomes import outcome
from tests.rollout.scripted import ScriptedEngine

SEARCH = search_turn("find it", "kelo mitu")


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
    batches = [ScriptedEngine(tokenizer, scripts[:3]), ScriptedEngine(tokenizer, scripts[3:])]
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
    assert (summary.measure, summary.correct, summary.reward) == ("exact_match", Proportion(2, 4), None)
    assert summary.by_hops == {1: Proportion(1, 2), 3: Proportion(1, 1)}
    assert summary.format_rate == 0.75
    assert summary.searches == 1.25
    assert summary.terminations == {
        "answered": 3,
        "out_of_turns": 0,
        "out_of_tokens": 0,
        "malformed": 1,
        "environment_done": 0,
        "tool_failed": 0,
        "model_failed": 0,
    }


def test_summary_of_episodes() -> None:
    """The environment's word counts before its reward; an episode that it gave nothing for earned 0, one that it failed
    is in no mean of rewards, and no success."""
    failed = outcome(success=None, reward=None, termination="tool_failed", correct=False)
    played = [outcome(success=s, correct=s, reward=r) for s, r in ((True, 1.0), (False, 0.5), (False, None))]
    summary = Summary.of([*played, failed])
    assert (summary.measure, summary.correct) == ("success", Proportion(1, 4))
    assert summary.reward is not None and summary.reward.value == pytest.approx(0.5)
    only_rewards = Summary.of([outcome(reward=2.0), outcome(reward=0.0)])
    assert (only_rewards.measure, only_rewards.correct) == ("reward", None)
    assert [o.score for o in (*played, failed, outcome(reward=2.0), outcome())] == [1, 0, 0, 0, 2.0, 1]


def test_summary_as_json_is_plain_json() -> None:
    """Its JSON is strict, carries the interval, and keeps hop counts as keys."""
    text = json.dumps(Summary.of([outcome(), outcome(hops=2, correct=False)]).as_json(), allow_nan=False)
    read = json.loads(text)
    low, high = Proportion(1, 2).interval
    assert read["exact_match"] == {"value": 0.5, "low": low, "high": high, "hits": 1, "total": 2}
    assert list(read["by_hops"]) == ["1", "2"]
