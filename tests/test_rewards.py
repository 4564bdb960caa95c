"""The outcome reward reads whatever TRL hands it: text, messages, or our record of the rollout."""

from __future__ import annotations

from typing import Any

import pytest

from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.types import Rollout, Termination


def ended(termination: Termination, answer: str | None = None) -> Rollout:
    """A rollout that ended so."""
    return Rollout([1], termination=termination, answer=answer)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("so \\boxed{the Bora}.", 1.0),
        ("first \\boxed{bora}, no: \\boxed{kelo}", 0.0),
        ("it is Bora", -1.0),
        ("\\boxed{bora", -1.0),
        ("", -1.0),
        ([{"role": "assistant", "content": "\\boxed{bo}"}], 1.0),
        ([{"role": "assistant", "content": "\\boxed{bora}"}, {"role": "tool", "content": "ok"}], -1.0),
        ([{"role": "tool", "content": "x"}, {"role": "assistant", "content": "\\boxed{x}"}], 0.0),
        ([{"role": "assistant", "content": None, "tool_calls": []}], -1.0),
        ([], -1.0),
    ],
)
def test_text_and_messages(completion: Any, reward: float) -> None:
    """Of text, or of the last message's text, the last box is the answer: 1 if any alias, 0 if another, −1 if there is
    none, as after a cut box, a tool call without text, or no message at all."""
    assert exact_match_reward([completion], answer=[["Bora", "Bo"]]) == [reward]


def test_an_answer_may_be_one_text() -> None:
    """`answer` holds a text or a list of aliases per rollout, in the order of the completions."""
    completions = ["\\boxed{ab}", "\\boxed{ab}", "\\boxed{a}"]
    assert exact_match_reward(completions, answer=["ab", ["x", "AB"], ["ab"]]) == [1.0, 1.0, 0.0]


def test_rollouts_decide_by_their_ending() -> None:
    """Our record wins over the text: an unfinished rollout is −1 even with a box in its text, and one the tool failed
    has no reward at all, which TRL leaves out of the baseline."""
    rollouts = [
        ended(Termination.ANSWERED, "bora"),
        ended(Termination.ANSWERED, "kelo"),
        ended(Termination.MALFORMED),
        ended(Termination.OUT_OF_TURNS),
        ended(Termination.OUT_OF_TOKENS),
        ended(Termination.TOOL_FAILED),
    ]
    rewards = exact_match_reward(["\\boxed{bora}"] * 6, answer=["bora"] * 6, rollout=rollouts, trainer_state=None)
    assert rewards == [1.0, 0.0, -1.0, -1.0, -1.0, None]
