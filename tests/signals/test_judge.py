"""The judge against a real chat server: scores arrive, and whatever the server does instead is typed and counted."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from a2tgpo.errors import JudgeError
from a2tgpo.signals import Judge, Scored, Transcript, Unscored, read_signal
from tests.evaluate.chat_server import (
    ChatServer,
    HangsUp,
    Refuses,
    Request,
    Response,
    Says,
    Sends,
    Slow,
    Stalls,
    Trickles,
)
from tests.signals.parts import ROLLOUTS, rollout
from tests.signals.test_verdict import scored


def record(request: Request) -> dict[str, Any]:
    """What the judge was asked about."""
    return json.loads(request["messages"][1]["content"])


def fair(request: Request) -> Response:
    """Score turn t of a rollout t/10."""
    return Says(scored(*(turn["turn"] / 10 for turn in record(request)["turns"])))


def judge(server: ChatServer, **options: Any) -> Judge:
    """A judge over the server, patient for half a second."""
    return Judge(server.url, "judge-1", **({"timeout_s": 0.5} | options))


def test_every_turn_has_its_score_and_its_words() -> None:
    """One request a rollout with process turns, with the key, model, rubric and options given; none for a rollout
    without; numbers stand on their turns."""
    with ChatServer(fair) as server:
        os.environ["JUDGES_KEY"] = "sk-of-the-judge"
        try:
            asked = judge(server, rubric="Brevity.", api_key_env="JUDGES_KEY", options={"seed": 7})
        finally:
            del os.environ["JUDGES_KEY"]
        reading = read_signal(asked, ROLLOUTS)
    assert reading.numbers.tolist() == [
        pytest.approx(row) for row in ([0.1, 0.2, 0.3, 0], [0, 0, 0, 0], [0.1, 0, 0, 0], [0.1, 0.2, 0, 0])
    ]
    assert reading.notes == [["because 0", "because 1", "because 2"], [], ["because 0"], ["because 0", "because 1"]]
    assert reading.unscored == [None] * 4 and len(server.requests) == 3
    for request in server.requests:
        assert (request["model"], request["seed"], request["key"]) == ("judge-1", 7, "Bearer sk-of-the-judge")
        assert "temperature" not in request and "Brevity." in request["messages"][0]["content"]
    counts = asked.take_counts()
    assert (counts["judge/rollouts"], counts["judge/calls"], counts["judge/tokens_in"]) == (3, 3, 60)
    assert counts["judge/tokens_out"] == 21 and counts["judge/cached_share"] == 0 and 0 < counts["judge/seconds"] < 30
    assert not any(asked.take_counts().values())


BAD: list[tuple[str, Response, str]] = [
    ("prose", Says("Fine turns, all of them."), "prose"),
    ("nothing", Says(None), "empty"),
    ("empty", Says(""), "empty"),
    ("NaN", Says(scored(float("nan"))), "not_a_number"),
    ("null", Says(scored(None)), "not_a_number"),
    ("out of range", Says(scored(7)), "out_of_range"),
    ("too few turns", Says(scored()), "incomplete"),
    ("cut off", Says(scored(0.5)[:-9], finish_reason="length"), "prose"),
    ("withheld", Says("no", finish_reason="content_filter"), "server"),
    ("no completion", Sends(b'{"hello": 1}'), "server"),
    ("no JSON", Sends(b"\xff\xfe<html>"), "server"),
    ("a refusal", Refuses(400, "context too long"), "server"),
    ("an error", Refuses(500, "out of memory"), "server"),
    ("too slow", Stalls(2.0), "too_slow"),
    ("never done", Trickles(), "too_slow"),
    ("cut connection", Sends(b'{"choices"', promised=999), "server"),
]


@pytest.mark.parametrize(("response", "kind"), [each[1:] for each in BAD], ids=[each[0] for each in BAD])
def test_one_bad_answer_takes_nobody_down(monkeypatch: pytest.MonkeyPatch, response: Response, kind: str) -> None:
    """The rollout is unscored with the kind in its reason, counted once; the others of the batch have their scores."""
    monkeypatch.setattr("a2tgpo.chat_client._PAUSES_S", 1.5)
    bad = rollout("hear me", ("do it", " done"))

    def respond(request: Request) -> Response:
        return response if record(request)["task"] == "hear me" else fair(request)

    with ChatServer(respond) as server:
        asked = judge(server)
        results = asked([ROLLOUTS[0], bad, ROLLOUTS[3]])
    assert [type(result) for result in results] == [Scored, Unscored, Scored]
    assert isinstance(results[1], Unscored) and results[1].reason.startswith(f"{kind}: ")
    counts = asked.take_counts()
    assert {name for name, n in counts.items() if n and "failed" in name} == {f"judge/failed_{kind}"}
    assert counts[f"judge/failed_{kind}"] == 1 and counts["judge/unscored_share"] == pytest.approx(1 / 3)


def test_an_unreadable_answer_is_sent_back_once() -> None:
    """The judge reads what was wrong and its own words, and its second answer counts; both calls are."""

    def respond(request: Request) -> Response:
        return Says("Good!") if len(request["messages"]) == 2 else fair(request)

    with ChatServer(respond) as server:
        asked = judge(server)
        (result,) = asked([ROLLOUTS[2]])
    assert isinstance(result, Scored) and list(result.numbers) == [0.1]
    said, again = server.requests[1]["messages"][2:]
    assert said == {"role": "assistant", "content": "Good!"} and "no JSON object with turns" in again["content"]
    counts = asked.take_counts()
    assert (counts["judge/calls"], counts["judge/asked_again"], counts["judge/unscored_share"]) == (2, 1, 0)


def test_a_server_error_is_tried_again() -> None:
    """A 503 and a broken connection before the answer cost a moment and no score."""
    first = iter([Refuses(503), HangsUp()])

    def respond(request: Request) -> Response:
        return next(first, None) or fair(request)

    with ChatServer(respond) as server:
        (result,) = judge(server)([ROLLOUTS[2]])
    assert isinstance(result, Scored) and len(server.requests) == 3


def test_equal_rollouts_are_asked_about_once_and_never_again(tmp_path: Path) -> None:
    """Within a batch, over batches and over runs; another rubric, model, option or range asks anew; failures are not
    kept."""
    with ChatServer(fair) as server:
        first = judge(server, cache_dir=tmp_path)([ROLLOUTS[0], ROLLOUTS[2], ROLLOUTS[0]])
        assert len(server.requests) == 2 and first[0] == first[2]
        server.respond = lambda request: Says("never mind")
        again = judge(server, cache_dir=tmp_path)
        assert again(ROLLOUTS[:3])[0] == first[0] and len(server.requests) == 2
        assert again.take_counts()["judge/cached_share"] == 1
        for change in ({"rubric": "other"}, {"options": {}}, {"high": 2.0}):
            assert isinstance(judge(server, cache_dir=tmp_path, **change)([ROLLOUTS[0]])[0], Unscored)
        assert isinstance(Judge(server.url, "judge-2", cache_dir=tmp_path)([ROLLOUTS[0]])[0], Unscored)
        assert len(server.requests) == 2 + 4 * 2  # each of them asked twice
        server.respond = fair
        assert isinstance(Judge(server.url, "judge-2", cache_dir=tmp_path)([ROLLOUTS[0]])[0], Scored)


def test_a_cache_that_somebody_else_filled_is_data(tmp_path: Path) -> None:
    """An entry that is no verdict is asked for again; a file that is no database is one line."""
    with ChatServer(fair) as server:
        judge(server, cache_dir=tmp_path)([ROLLOUTS[2]])
        with sqlite3.connect(tmp_path / "verdicts-1.sqlite") as file:
            file.execute("UPDATE answers SET text = 'I was here'")
        file.close()
        (result,) = judge(server, cache_dir=tmp_path)([ROLLOUTS[2]])
        assert isinstance(result, Scored) and len(server.requests) == 2
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "verdicts-1.sqlite").write_bytes(b"no database" * 500)
    with pytest.raises(JudgeError, match="delete it or give another cache_dir"):
        Judge("http://127.0.0.1:1/v1", "m", cache_dir=tmp_path / "bad")


def test_requests_run_together_and_no_more_than_allowed() -> None:
    """Twelve answers of 0.2 s with six at a time take two rounds; never do seven run."""
    rollouts = [rollout(f"question {i}", ("look", " found")) for i in range(12)]
    slow = Slow(fair)
    with ChatServer(slow) as server:
        started = time.monotonic()
        judge(server, concurrency=6, timeout_s=30)(rollouts)
    assert slow.most == 6 and time.monotonic() - started < 12 * 0.2


@pytest.mark.parametrize(("status", "said"), [(401, "check the API key"), (404, "the URL and the model's name")])
def test_a_refusal_of_everything_ends_the_run(status: int, said: str) -> None:
    """A wrong key or model is the user's to mend: nothing is scored by waiting."""
    with ChatServer(lambda _: Refuses(status, "who are you?")) as server, pytest.raises(JudgeError, match=said):
        judge(server)(ROLLOUTS)


def test_a_server_that_is_gone_fails_each_rollout() -> None:
    """Nobody there: every rollout is unscored, after one of them has waited for the retries."""
    asked = Judge("http://127.0.0.1:9/v1", "m", timeout_s=0.5)
    results = asked(ROLLOUTS)
    assert [type(result) for result in results] == [Unscored, Scored, Unscored, Unscored]
    with pytest.raises(JudgeError, match="gave an example no score: server: http"):
        asked.check()


def test_it_works_inside_an_event_loop() -> None:
    """A notebook's cell runs in one."""

    async def cell(asked: Callable[[list[Transcript]], Any]) -> Any:
        return asked([ROLLOUTS[2]])

    with ChatServer(fair) as server:
        judge(server).check()
        (result,) = asyncio.run(cell(judge(server)))
    assert isinstance(result, Scored)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"url": "localhost:8000"}, "url='localhost:8000': must be like"),
        ({"model": " "}, "model=' ': give a text"),
        ({"rubric": None}, "rubric=None: give a text"),
        ({"low": 1.0}, "low below high"),
        ({"high": float("inf")}, "finite numbers"),
        ({"concurrency": 0}, "concurrency=0"),
        ({"timeout_s": 0}, "timeout_s=0"),
        ({"api_key_env": "NO_SUCH_KEY"}, "'NO_SUCH_KEY': no such environment variable"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], said: str) -> None:
    """Each is named with its value."""
    with pytest.raises(ValueError, match=said):
        Judge(**({"url": "http://127.0.0.1:1/v1", "model": "m"} | arguments))
