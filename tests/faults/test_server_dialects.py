"""Chat servers of every dialect: what can be read is read, what cannot is named; no dialect is scored as a policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="pip install 'a2tgpo[eval]'")

from a2tgpo.chat_reply import ModelFailure, read_reply
from a2tgpo.cli import main
from a2tgpo.environments.environment import Action
from a2tgpo.evaluate.answers_file import read_answers
from a2tgpo.evaluate.benchmark_run import OUTAGE
from a2tgpo.evaluate.dialogue import ToolDialogue
from a2tgpo.rollout.protocol import Malformed
from tests.evaluate.chat_server import ChatServer, Refuses, Request, Response, Sends, turn_of
from tests.evaluate.policies.parts import asked, outcomes_of
from tests.evaluate.policies.test_server import policy
from tests.evaluate.world import WorldFiles

Change = Callable[[dict[str, Any]], Any]
"""What a dialect makes of a completion as OpenAI sends it."""


def completion(message: dict[str, Any], finish_reason: str = "stop") -> dict[str, Any]:
    """As OpenAI sends it."""
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 5},
    }


def call(arguments: Any = '{"query": "kelo"}', **fields: Any) -> dict[str, Any]:
    """A call of search."""
    return {"id": "c0", "type": "function", "function": {"name": "search", "arguments": arguments}} | fields


def conversation(change: Change) -> Callable[[Request], Response]:
    """Two searches in one message, then the answer, every completion in the dialect `change`."""

    def respond(request: Request) -> Response:
        calls = [call(), call('{"query": "mitu"}', id="c1")]
        message = {"content": "\\boxed{Bora}"} if turn_of(request) else {"content": None, "tool_calls": calls}
        body = completion(message, "stop" if turn_of(request) else "tool_calls")
        change(body)
        return Sends(json.dumps(body).encode())

    return respond


def calls_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return body["choices"][0]["message"].get("tool_calls", [])


def each_call(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda body: [change(written) for written in calls_of(body)]


def message(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda body: change(body["choices"][0]["message"])


def in_parts(*parts: Any) -> Change:
    return message(lambda said: said.update(content=[*parts]) if said["content"] else None)


def arguments_as_object(written: dict[str, Any]) -> None:
    written["function"]["arguments"] = json.loads(written["function"]["arguments"])


def without_function(written: dict[str, Any]) -> None:
    written.update(written.pop("function"))


DIALECTS: dict[str, Change] = {
    "as OpenAI": lambda body: None,
    "no usage": lambda body: body.pop("usage"),
    "usage null": lambda body: body.update(usage=None),
    "usage half null": lambda body: body["usage"].update(completion_tokens=None),
    "usage as text": lambda body: body["usage"].update(prompt_tokens="12", completion_tokens=5.0),
    "usage of another kind": lambda body: body.update(usage=[17]),
    "arguments as an object": each_call(arguments_as_object),
    "id null": each_call(lambda written: written.update(id=None)),
    "no id": each_call(lambda written: written.pop("id")),
    "id empty": each_call(lambda written: written.update(id="")),
    "id a number": each_call(lambda written: written.update(id=7)),
    "one id for all": each_call(lambda written: written.update(id="call_0")),
    "no type": each_call(lambda written: written.pop("type")),
    "no function": each_call(without_function),
    "content in parts": in_parts({"type": "text", "text": "\\boxed"}, {"type": "text", "text": "{Bora}"}),
    "content in bare parts": in_parts("\\boxed{Bo", "ra}"),
    "content as one part": message(lambda said: said["content"] and said.update(content={"text": said["content"]})),
    "thoughts in parts": in_parts(
        {"type": "thinking", "thinking": [{"type": "text", "text": "\\boxed{Mitu}?"}]}, {"text": "\\boxed{Bora}"}
    ),
    "no content": message(lambda said: said["content"] is None and said.pop("content")),
    "calls null": message(lambda said: said.setdefault("tool_calls", None)),
    "no finish reason": lambda body: body["choices"][0].pop("finish_reason"),
    "more fields": lambda body: body.update(id="x", timings={"prompt_n": 3}),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_dialect_is_read(dialect: str) -> None:
    """The same conversation in each: two searches under two ids, then the answer, and tokens that are counted."""
    with ChatServer(conversation(DIALECTS[dialect])) as server:
        (outcome,) = outcomes_of(policy(server, "tools"), asked(1))
    assert (outcome.termination, outcome.prediction, outcome.queries) == ("answered", "Bora", ["kelo", "mitu"])
    assert outcome.policy_tokens > 0 and outcome.total_tokens > 12
    turn, *results = server.requests[-1]["messages"][2:]
    ids = [written["id"] for written in turn["tool_calls"]]
    assert len(set(ids)) == 2 and all(isinstance(name, str) and name for name in ids)
    assert [result["tool_call_id"] for result in results] == ids
    assert all(isinstance(json.loads(written["function"]["arguments"]), dict) for written in turn["tool_calls"])


def test_ids_that_are_made_up_differ_between_turns() -> None:
    """Nine letters and digits each, as the strictest chat templates want them."""
    body = json.dumps(completion({"tool_calls": [call(id=None), call(id=None)]}))
    ids = [made.id for turn in (0, 1, 12) for made in read_reply(body, turn).calls]
    assert len(set(ids)) == 6 and all(len(name) == 9 and name.isalnum() for name in ids)


def test_estimated_tokens_keep_to_the_budget() -> None:
    """A server that counts nothing still ends a rollout whose results fill it, at four characters a token."""
    from a2tgpo.rollout.agent import RolloutLimits

    def respond(request: Request) -> Response:
        return Sends(json.dumps(completion({"tool_calls": [call()]}) | {"usage": None}).encode())

    limits = RolloutLimits(max_searches=9, max_completion_tokens=300, max_turn_tokens=50, passage_tokens=100)
    with ChatServer(respond) as server:
        (outcome,) = outcomes_of(policy(server, "tools", limits=limits), asked(1))
    assert outcome.termination == "out_of_tokens" and 1 < outcome.searches < 4
    assert all(request["max_tokens"] <= 50 for request in server.requests)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"choices": []}, "choices is"),
        ({"choices": None}, "choices is missing"),
        ({}, "choices is missing"),
        ({"choices": [{"finish_reason": "stop"}]}, r"choices\[0\].message is missing"),
        ({"choices": [{"text": "x"}]}, r"choices\[0\].message is missing"),
        (completion({"content": 7}), "message.content is '7'"),
        (completion({"content": [{"type": "image_url"}]}), r"message.content\[0\] is"),
        (completion({"content": "x", "tool_calls": "search"}), r"message.tool_calls\[0\] is 'search'"),
        (completion({"tool_calls": [{"id": "c"}]}), r"message.tool_calls\[0\].function.name is missing"),
        (completion({"content": "x", "reasoning_content": 3}), "message.reasoning_content is '3'"),
        ({"error": {"message": "no such adapter"}}, "no such adapter"),
        ({"error": "busy"}, "busy"),
    ],
)
def test_what_cannot_be_read_is_named(body: Any, field: str) -> None:
    """By the field and what stands there, not by the beginning of the body."""
    with pytest.raises(ModelFailure, match=field):
        read_reply(json.dumps(body))


def test_half_a_surrogate_pair_in_a_query() -> None:
    """It can be spelled in JSON, but neither sent to the search tool nor kept in the file of answers."""
    for arguments in ('{"query": "kelo \\ud83d"}', {"query": "kelo \ud83d"}):
        reply = read_reply(json.dumps(completion({"tool_calls": [call(arguments)]})))
        (action,) = ToolDialogue().actions(reply)
        assert isinstance(action, Action) and action.text.encode("utf-8").startswith(b"kelo")


UNPARSED_CALLS = [
    '<tool_call>\n{"name": "search", "arguments": {"query": "Kelo"}}\n</tool_call>',
    "I need Kelo.\n<tool_call>\n<function=search>\n<parameter=query>Kelo</parameter>\n</function>\n</tool_call>",
    '<think>\nI need Kelo.\n</think>\n\n<tool_call>{"name": "search"',
    'I need Kelo.</think><tool_call>{"name": "search", "arguments": {"query": "Kelo"}}</tool_call>',
    '[TOOL_CALLS][{"name": "search", "arguments": {"query": "Kelo"}}]',
    '[TOOL_CALLS]search[ARGS]{"query": "Kelo"}',
    '<function=search>{"query": "Kelo"}</function>',
    '<|python_tag|>{"name": "search", "parameters": {"query": "Kelo"}}',
    '{"name": "search", "parameters": {"query": "Kelo"}}',
    '[{"name": "search", "arguments": {"query": "Kelo"}}]',
    '{"type": "function", "function": {"name": "search", "arguments": "{}"}}',
    '```json\n{"name": "search", "arguments": {"query": "Kelo"}}\n```',
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>search",
    '<|tool_call_start|>[search(query="Kelo")]<|tool_call_end|>',
    '[search(query="Kelo")]',
    'commentary to=functions.search <|constrain|>json<|message|>{"query": "Kelo"}',
]


@pytest.mark.parametrize("text", UNPARSED_CALLS)
def test_a_call_left_in_the_text_is_no_answer(text: str) -> None:
    """Malformed, with a reason that says whose fault it is, in the words of each family of models."""
    (action,) = ToolDialogue().actions(read_reply(json.dumps(completion({"content": text, "tool_calls": []}))))
    assert isinstance(action, Malformed) and "the server did not parse its tool calls" in action.reason


@pytest.mark.parametrize(
    "text",
    ["Bora", "\\boxed{Bora}", '{"answer": "Bora"}', "[1] Bora", "A tool call is a request.", "research (2019)", "[]"],
)
def test_an_answer_is_no_call(text: str) -> None:
    """Words about tools, JSON and brackets are answers."""
    (action,) = ToolDialogue().actions(read_reply(json.dumps(completion({"content": text}))))
    assert not isinstance(action, Malformed)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    """More questions than a run asks whose every answer fails."""
    return WorldFiles.write(tmp_path_factory.mktemp("world"), OUTAGE + 4)


def evaluate(world: WorldFiles, server: ChatServer, folder: Path, **flags: Any) -> int:
    """The exit status of `a2tgpo eval` on `server` with native tool calls."""
    values = dict(
        model="m",
        base_url=server.url,
        protocol="tools",
        benchmarks=f"hops={world.questions}",
        retriever=world.index,
        output_dir=folder,
        concurrency=1,
    )
    return main(["eval", *(part for name, value in (values | flags).items() for part in (f"--{name}", str(value)))])


@pytest.mark.parametrize("flags", [{"n_questions": 2}, {}])
@pytest.mark.parametrize(
    ("content", "said", "ending"),
    [
        (UNPARSED_CALLS[0], "the server did not parse its tool calls", "malformed"),
        (7, "message.content is '7'", "model_failed"),
    ],
)
def test_a_dialect_nobody_can_read_is_no_score(
    world: WorldFiles,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: dict[str, Any],
    content: Any,
    said: str,
    ending: str,
) -> None:
    """Where every answer fails alike the run ends with exit 2 and the reason, after `OUTAGE` of them or at the end of a
    shorter run; the same command does not make a table of it."""
    with ChatServer(lambda _: Sends(json.dumps(completion({"content": content})).encode())) as server:
        assert evaluate(world, server, tmp_path, **flags) == 2
        outcomes = read_answers(tmp_path)
        assert {outcome.termination for outcome in outcomes} == {ending}
        assert len(outcomes) == flags.get("n_questions", OUTAGE)
        first = capsys.readouterr().err.splitlines()[-1]
        assert evaluate(world, server, tmp_path, **flags) == 2
        again = capsys.readouterr().err.splitlines()[-1]
    for error in (first, again):
        assert error.startswith("error: ") and said in error
    assert not (tmp_path / "table.md").exists()


def test_one_answer_makes_a_score(world: WorldFiles, tmp_path: Path) -> None:
    """A run in which one question was answered has a table, however many others failed."""
    answered = 0

    def respond(request: Request) -> Response:
        nonlocal answered
        answered += 1
        return Sends(json.dumps(completion({"content": "Bora" if answered == 1 else UNPARSED_CALLS[0]})).encode())

    with ChatServer(respond) as server:
        assert evaluate(world, server, tmp_path) == 0
    assert len(read_answers(tmp_path)) == OUTAGE + 4 and (tmp_path / "table.md").exists()


def test_a_template_without_a_system_role_behind_a_server(
    world: WorldFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server refuses every conversation; the run ends with exit 2 and says what to give instead."""
    with ChatServer(lambda _: Refuses(400, "TemplateError: System role not supported")) as server:
        assert evaluate(world, server, tmp_path, n_questions=2) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "System role not supported" in error and "--system_prompt ''" in error
