"""Thoughts that the template opened, nobody closed, or a budget cut: never scored in evaluation over a server."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("openai", reason="pip install 'a2tgpo[eval]'")

from tests.evaluate.chat_server import ChatServer, Sends
from tests.evaluate.policies.parts import asked, outcomes_of
from tests.evaluate.policies.test_server import policy


def reply(text: str, finish_reason: str) -> Sends:
    """A completion of `text`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return Sends(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}).encode())


@pytest.mark.parametrize(
    ("protocol", "text", "finish_reason", "prediction", "ending"),
    [
        ("tools", "Okay, Kelo.\n</think>\n\nBora", "stop", "Bora", "answered"),
        ("tools", "Perhaps \\boxed{Mitu}. No.\n</think>\n\nBora", "stop", "Bora", "answered"),
        ("tools", "<answer>Mitu</answer>?\n</think>\n\nIt is \\boxed{Bora}.", "stop", "Bora", "answered"),
        ("tools", "One </think> and another \\boxed{Mitu} </think> Bora", "stop", "Bora", "answered"),
        ("tools", "<think> a </think> Bora <think> or Mitu", "stop", "Bora", "answered"),
        ("tools", "Okay.</think><answer> Bora </answer>", "stop", "Bora", "answered"),
        ("tools", "<think> maybe Bora or Mitu", "stop", None, "malformed"),
        ("tools", "<think> maybe \\boxed{Mitu}", "stop", None, "malformed"),
        ("tools", "Maybe Mitu.</think>", "stop", None, "malformed"),
        ("tools", "<think> maybe \\boxed{Mitu}, but", "length", None, "out_of_tokens"),
        ("tools", "Okay, maybe Mitu or", "length", None, "out_of_tokens"),
        ("tools", "Okay.</think> \\boxed{Bora} beca", "length", "Bora", "answered"),
        ("tags", "I know.\n</think>\n\n<answer> \\boxed{Bora}", "stop", "Bora", "answered"),
        ("tags", "I know.\n</think>\n\n<answer> \\boxed{Bora} </answer>", "stop", "Bora", "answered"),
        ("tags", "I know. \\boxed{Mitu}", "stop", None, "malformed"),
        ("tags", "I know.\n</think>\n\n<answer> \\boxed{Bo", "length", None, "out_of_tokens"),
    ],
)
def test_a_thought_is_never_scored(
    protocol: str, text: str, finish_reason: str, prediction: str | None, ending: str
) -> None:
    """A server without a reasoning parser leaves thoughts in the text, often without the tag its template wrote."""
    with ChatServer(lambda _: reply(text, finish_reason)) as server:
        (outcome,) = outcomes_of(policy(server, protocol), asked(1))
    assert (outcome.prediction, outcome.termination) == (prediction, ending)
