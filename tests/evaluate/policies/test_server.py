"""Conversations with a chat server over a real socket, well-behaved and not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("openai", reason="pip install 'a2tgpo[eval]'")

from a2tgpo import chat_client
from a2tgpo.chat_client import OUTAGE, ChatClient
from a2tgpo.environments.search_environment import SEARCH as SEARCH_TOOL
from a2tgpo.environments.search_environment import SearchEnvironment
from a2tgpo.errors import PolicyServerError, ToolError
from a2tgpo.evaluate.dialogue import DIALOGUES
from a2tgpo.evaluate.server_policy import ServerPolicy
from a2tgpo.rollout.agent import RolloutLimits
from a2tgpo.rollout.protocol import INSTRUCTION
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
    question_of,
    turn_of,
)
from tests.evaluate.policies.parts import PASSAGE, asked, one_passage, outcomes_of

SEARCH = Says("<think> a </think> <search> kelo ")
ANSWER = Says("<think> a </think> <answer> \\boxed{Bora} ")
CALL = Says(calls=(("search", '{"query": "kelo"}'),), finish_reason="tool_calls")


def policy(server: ChatServer, protocol: str = "tags", **changes: Any) -> ServerPolicy:
    """Of `server`, two conversations at a time."""
    timeout_s = changes.pop("timeout_s", 20.0)
    values: dict[str, Any] = dict(
        make_client=lambda: ChatClient(server.url, "key", "m", timeout_s),
        dialogue=DIALOGUES[protocol]((SEARCH_TOOL,)),
        environment=SearchEnvironment(changes.pop("search", one_passage)),
        limits=RolloutLimits(max_searches=2, max_turn_tokens=50, passage_tokens=8),
        system_prompt=None,
        temperature=0.0,
        seed=0,
        concurrency=2,
    )
    return ServerPolicy(**values | changes)


def played(*script: Response) -> Callable[[Request], Response]:
    """Turn t of every conversation is `script[t]`."""
    return lambda request: script[turn_of(request)]


# --- conversations ---------------------------------------------------------------------------------------------------


def test_a_conversation_in_tags() -> None:
    """Search, result, answer: the requests are the protocol's; the outcome has what happened, with tokens as the
    server counted them."""
    with ChatServer(played(SEARCH, ANSWER)) as server:
        (outcome,) = outcomes_of(policy(server), asked(1))
    first, second = server.requests
    assert first["path"] == "/v1/chat/completions" and first["key"] == "Bearer key" and first["model"] == "m"
    assert first["messages"] == [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "Who is 0?"}]
    assert (first["max_tokens"], first["temperature"], first["stop"]) == (50, 0, ["</search>", "</answer>"])
    assert "seed" not in first and "tools" not in first
    turn, result = second["messages"][2:]
    assert turn == {"role": "assistant", "content": "<think> a </think> <search> kelo </search>"}
    assert result == {"role": "user", "content": f'<result>\n[1] "Kelo" {PASSAGE.text[:32]}\n</result>\n'}
    assert (outcome.prediction, outcome.correct, outcome.termination) == ("Bora", True, "answered")
    assert (outcome.searches, outcome.queries) == (1, ["kelo"])
    assert (outcome.policy_tokens, outcome.total_tokens) == (14, 47)
    assert outcome.text.startswith(f"{turn['content']}\n<result>") and outcome.text.endswith("\\boxed{Bora} </answer>")


def test_a_conversation_with_native_tool_calls() -> None:
    """ReAct: two calls in one message, each answered under its own id, then a message with the answer."""
    both = Says("Let me see.", calls=(("search", '{"query": "kelo"}'), ("search", '{"query": "mitu"}')))
    with ChatServer(played(both, Says("It is \\boxed{Bora}."))) as server:
        (outcome,) = outcomes_of(policy(server, "tools", system_prompt=""), asked(1))
    first, second = server.requests
    assert first["messages"] == [{"role": "user", "content": "Who is 0?"}] and "stop" not in first
    assert first["tools"][0]["function"]["name"] == "search" and first["tool_choice"] == "auto"
    turn, *results = second["messages"][1:]
    assert turn["content"] == "Let me see." and [call["id"] for call in turn["tool_calls"]] == ["call0", "call1"]
    assert [(r["role"], r["tool_call_id"]) for r in results] == [("tool", "call0"), ("tool", "call1")]
    assert (outcome.prediction, outcome.termination, outcome.queries) == ("Bora", "answered", ["kelo", "mitu"])


@pytest.mark.parametrize(
    ("protocol", "script", "ending"),
    [
        ("tags", [SEARCH, SEARCH, SEARCH], "out_of_turns"),
        ("tools", [CALL, CALL, CALL], "out_of_turns"),
        ("tags", [Says("no tags")], "malformed"),
        ("tags", [Says("<think> a </think> <search> ke", finish_reason="length")], "out_of_tokens"),
        ("tools", [Says(calls=(("search", '{"query": "ke'),), finish_reason="length")], "out_of_tokens"),
        ("tools", [Says(calls=(("search", "kelo"),))], "malformed"),
        ("tools", [Says("")], "malformed"),
    ],
)
def test_endings_are_those_of_training(protocol: str, script: list[Says], ending: str) -> None:
    """The rules and the names of the agent loop, in both ways of speaking; calls that do not parse are malformed."""
    with ChatServer(played(*script)) as server:
        (outcome,) = outcomes_of(policy(server, protocol), asked(1))
    assert (outcome.termination, outcome.prediction, outcome.searches) == (ending, None, len(script) - 1)
    assert outcome.reason


@pytest.mark.parametrize(
    ("script", "ending", "prediction"),
    [
        ([SEARCH, Says("<search> mitu "), Says("<answer> \\boxed{Bora} ")], "answered", "Bora"),
        ([Says("<search> kelo "), Says("Well. <think> a </think> So: <answer> \\boxed{Bora} ")], "answered", "Bora"),
        ([Says("<search> kelo "), Says("a </think> <answer> \\boxed{Bora} ")], "answered", "Bora"),
        ([Says("<search> kelo "), Says("<answer> \\boxed{Bora} ")], "malformed", None),
    ],
)
def test_the_format_is_that_of_the_response(script: list[Says], ending: str, prediction: str | None) -> None:
    """In tags, one thought in any turn is enough, and an answer without any is none, as in training."""
    with ChatServer(played(*script)) as server:
        (outcome,) = outcomes_of(policy(server), asked(1))
    assert (outcome.termination, outcome.prediction) == (ending, prediction)


def test_the_budget_of_the_whole_answer_is_kept() -> None:
    """After a result, a turn may have what is left: 60 less the 7 tokens of the first turn and the 61 characters of the
    result at four a token. A result that leaves nothing ends the rollout."""
    for most, budgets, ending in ((60, [50, 60 - 7 - 15], "answered"), (20, [20], "out_of_tokens")):
        limits = RolloutLimits(max_turn_tokens=50, max_completion_tokens=most, passage_tokens=8)
        with ChatServer(played(SEARCH, ANSWER)) as server:
            (outcome,) = outcomes_of(policy(server, limits=limits), asked(1))
        assert outcome.termination == ending
        assert [request["max_tokens"] for request in server.requests] == budgets


def test_samples_differ_by_seed_and_are_the_same_in_every_run() -> None:
    """With a temperature every question and sample has a seed of its own; another base seed changes them all."""
    seeds = []
    for base in (0, 0, 1):
        with ChatServer(played(ANSWER)) as server:
            outcomes = outcomes_of(policy(server, temperature=0.7, seed=base), asked(2, samples=3))
        assert [outcome.sample for outcome in outcomes] == [0, 1, 2] * 2
        seeds.append({request["seed"] for request in server.requests})
        assert all(request["temperature"] == 0.7 for request in server.requests)
    assert seeds[0] == seeds[1] and len(seeds[0]) == 6 and not seeds[0] & seeds[2]


def test_conversations_run_side_by_side_and_no_more_than_asked_for() -> None:
    """Eight questions of 0.2 s, four at a time, take two rounds."""
    slow = Slow(lambda _: ANSWER)
    with ChatServer(slow) as server:
        assert all(o.correct for o in outcomes_of(policy(server, concurrency=4), asked(8)))
    assert slow.most == 4


# --- one question fails ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "reason", "requests"),
    [
        (Refuses(400, "context is too long"), "400.*context is too long", 1),
        (Refuses(500, "out of memory"), "out of memory", 3),
        (Sends(b'{"choices": [{"mess'), "not a chat completion", 1),
        (Sends(b"\x00\xff\xfe garbage"), "not a chat completion", 1),
        (Sends(b'{"choices": []}'), "not a chat completion", 1),
        (Sends(b'{"cho', promised=500), "Connection error", 3),
        (HangsUp(), "Connection error", 3),
        (Stalls(2.0), "timed out", 3),
        (Trickles(), "timed out", 1),
    ],
    ids=["400", "500", "half JSON", "bytes", "no choice", "cut off", "hangs up", "times out", "trickles"],
)
def test_one_questions_trouble_is_its_own(
    trouble: Response, reason: str, requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as model_failed with the reason, after retries where those could help; what the conversation had until
    then is kept, and the questions before and after are answered."""

    monkeypatch.setattr(chat_client, "_PAUSES_S", 3.0)

    def respond(request: Request) -> Response:
        if question_of(request) == "Who is 1?" and turn_of(request) == 1:
            return trouble
        return SEARCH if turn_of(request) == 0 else ANSWER

    with ChatServer(respond) as server:
        outcomes = outcomes_of(policy(server, concurrency=1, timeout_s=0.4), asked(3))
    assert [outcome.termination for outcome in outcomes] == ["answered", "model_failed", "answered"]
    failed = outcomes[1]
    assert failed.prediction is None and not failed.correct and failed.queries == ["kelo"] and "<result>" in failed.text
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(failed.reason)
    assert sum(question_of(r) == "Who is 1?" and turn_of(r) == 1 for r in server.requests) == requests


def test_a_failing_tool_ends_its_conversation_as_in_training() -> None:
    """As tool_failed with the query and the tool's own words."""

    def search(queries: list[str]) -> Any:
        raise ToolError("index on fire")

    with ChatServer(played(SEARCH)) as server:
        (outcome,) = outcomes_of(policy(server, search=search), asked(1))
    assert (outcome.termination, outcome.searches) == ("tool_failed", 0)
    assert outcome.reason == "search 'kelo': index on fire"


# --- the server fails ------------------------------------------------------------------------------------------------


def failure_of(server: ChatServer, **changes: Any) -> tuple[str, list[Any]]:
    """What stops an evaluation of twelve questions, and the outcomes before."""
    kept: list[Any] = []
    with pytest.raises(PolicyServerError) as stopped:
        policy(server, **changes).answer(asked(12), kept.append)
    return str(stopped.value), kept


def test_a_server_that_was_never_there_stops_at_once() -> None:
    """One refused connection, retries included, is enough before anything was answered; the message names the URL."""
    with ChatServer(played(ANSWER)) as server:
        pass
    message, kept = failure_of(server)
    assert server.url in message and "is the server running?" in message and kept == []


@pytest.mark.parametrize(
    ("status", "remedy", "requests"),
    [(401, "check the API key", 1), (403, "check the API key", 1), (404, "the model's name", 1), (503, "running?", 3)],
)
def test_a_refusal_of_all_requests_stops_at_once(status: int, remedy: str, requests: int) -> None:
    """A wrong key, path or model is nobody's wrong answer, nor is a gateway with no model behind it."""
    with ChatServer(lambda request: Refuses(status, "go away")) as server:
        message, kept = failure_of(server, concurrency=1)
    assert "go away" in message and remedy in message and kept == [] and len(server.requests) == requests


def test_a_server_that_dies_stops_the_run_and_keeps_what_it_said() -> None:
    """Four answers, then refused connections: the run gives up after `OUTAGE` questions in a row instead of failing all
    that are left, and every answer from before has been handed over."""

    def respond(request: Request) -> Response:
        if question_of(request) == "Who is 3?":
            threading.Thread(target=server.die).start()
        return ANSWER

    with ChatServer(respond) as server:
        message, kept = failure_of(server, concurrency=1)
    assert "gives no answer" in message
    assert [outcome.termination for outcome in kept] == ["answered"] * 4 + ["model_failed"] * (OUTAGE - 1)


def test_a_server_too_slow_for_every_question_stops_the_run() -> None:
    """Timeouts in a row, with the way out; one alone, even the first, is that question's."""
    with ChatServer(lambda request: Stalls(1.0)) as server:
        message, kept = failure_of(server, concurrency=6, timeout_s=0.1)
    assert "timeout_s" in message and [outcome.termination for outcome in kept] == ["model_failed"] * (OUTAGE - 1)


def test_what_a_run_raises_while_keeping_an_outcome_comes_through() -> None:
    """As itself, and it stops the other conversations."""

    def full(outcome: Any) -> None:
        raise OSError("disk full")

    with ChatServer(played(ANSWER)) as server, pytest.raises(OSError, match="disk full"):
        policy(server).answer(asked(5), full)
