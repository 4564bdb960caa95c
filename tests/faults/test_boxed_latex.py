"""LaTeX around the text in the box: the same answer in training, in evaluation and to the parser."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("openai", reason="pip install 'a2tgpo[eval]'")

from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.protocol import Answer, parse_turn
from tests.evaluate.chat_server import ChatServer, Sends
from tests.evaluate.policies.parts import asked, outcomes_of
from tests.evaluate.policies.test_server import policy

BOXES = [
    (r"\boxed{\text{Bora}}", "Bora"),
    (r"\boxed{\textbf{Bora}}", "Bora"),
    (r"\boxed{\mathrm{Bora}}", "Bora"),
    (r"\boxed{\textbf{\text{ Bora }}}", "Bora"),
    (r"\boxed {\mathbf{Bora}}", "Bora"),
    (r"\boxed{\text{Bora}\ \text{Tine}}", "Bora Tine"),
    (r"\boxed{Bora\ Tine}", "Bora Tine"),
    (r"\boxed{\{Bora\}}", "{Bora}"),
    (r"\boxed{\$1{,}000}", "$1,000"),
    (r"\boxed{\text{50\%}}", "50%"),
    (r"\boxed{$\text{Bora}$}", "Bora"),
]


@pytest.mark.parametrize(("box", "answer"), BOXES)
def test_the_box_says_the_text(box: str, answer: str) -> None:
    """Reward 1 for text and messages, the plain text as the parsed answer and as the prediction over both protocols."""
    turn = f"<think> a </think> <answer> {box} </answer>"
    assert exact_match_reward([turn, [{"role": "assistant", "content": turn}]], [answer, answer]) == [1.0, 1.0]
    assert parse_turn(turn) == Answer(answer)
    for protocol, text in (("tags", turn), ("tools", f"It is {box}.")):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 9}}).encode()
        with ChatServer(lambda _, body=body: Sends(body)) as server:
            (outcome,) = outcomes_of(policy(server, protocol), asked(1))
        assert outcome.prediction == answer
