"""Score responses as the paper does, in the shape TRL's reward functions have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from a2tgpo.chat_reply import THOUGHT_FIELDS
from a2tgpo.gold import gold_aliases
from a2tgpo.rollout.protocol import given_answer, open_thought
from a2tgpo.rollout.types import Rollout, Termination
from a2tgpo.text_match import exact_match

Completion = str | list[dict[str, Any]]

_OPENED = re.compile(r"<think>\s*\Z")


def exact_match_reward(
    completions: Sequence[Completion],
    answer: Sequence[str | list[str] | None] | None = None,
    rollout: Sequence[Rollout] | None = None,
    prompts: Sequence[Completion] | None = None,
    **_: Any,
) -> list[float | None]:
    """Return 1 for an exact match after SQuAD normalisation, 0 for another answer, −1 for a broken format.

    A response is everything the policy wrote, in all its turns. It keeps the format where it has a `<think>…</think>`
    and, outside of thoughts, an `<answer>…</answer>` that holds a `\\boxed{…}`; the last such box is the answer. What
    else it says, and in which turn, does not matter, nor how the rollout ended; an empty box is a wrong answer. Source:
    A²TGPO, arXiv 2605.06200, Eqs. 14 and 15.

    The rule is the same for our rollouts, for text and for the messages of TRL's own tool loop, whose parsed thoughts
    count as `<think>` blocks. A thought that the prompt opened counts as opened by the response: our rollouts and
    prompts that are text say whether it did; of messages any that closes a thought it did not open is taken so.
    A rollout that the tool failed gets None: TRL then leaves it out of its group's baseline.

    Args:
        completions: generated text or messages, per rollout.
        answer: gold answer or its aliases, per rollout; where a row has none, the one that the environment revealed.
        rollout: our record of each conversation, present with `TagRollout`; decides in place of `completions`.
        prompts: what each completion answers.
    """
    stated = [None] * len(completions) if answer is None else answer
    if rollout is not None:
        stated = [_known(*both) for both in zip(stated, rollout, strict=True)]
    golds = [
        []
        if rollout is not None and rollout[number].termination is Termination.TOOL_FAILED
        else gold_aliases(gold, f"rollout {number}")
        for number, gold in enumerate(stated)
    ]
    if rollout is not None:
        return [_score_rollout(record, gold) for record, gold in zip(rollout, golds, strict=True)]
    asked = [None] * len(completions) if prompts is None else prompts
    responses = [_response(*both) for both in zip(completions, asked, strict=True)]
    return [_score(given_answer(text), gold) for text, gold in zip(responses, golds, strict=True)]


def _known(answer: Any, rollout: Rollout) -> Any:
    return rollout.revealed_answer if answer is None or answer == [] else answer


def _score_rollout(rollout: Rollout, golds: list[str]) -> float | None:
    if rollout.termination is Termination.TOOL_FAILED:
        return None
    if not rollout.turn_texts:  # a record made by hand
        return _score(rollout.answer if rollout.termination is Termination.ANSWERED else None, golds)
    return _score(given_answer("\n".join(rollout.turn_texts)), golds)


def _score(prediction: str | None, golds: list[str]) -> float:
    if prediction is None:
        return -1.0
    return float(bool(prediction) and exact_match(prediction, golds))


def _response(completion: Completion, prompt: Completion | None) -> str:
    """Return what the policy wrote of `completion`, with the thought that its prompt opened."""
    if isinstance(completion, str):
        opened = isinstance(prompt, str) and _OPENED.search(prompt)
        return open_thought(completion) if opened else completion
    return "\n".join(map(_message_text, (said for said in completion if said.get("role", "assistant") == "assistant")))


def _message_text(message: Mapping[str, Any]) -> str:
    text = _content_text(message.get("content"))
    thoughts = next((found for name in THOUGHT_FIELDS if (found := _content_text(message.get(name)))), "")
    return f"<think>{thoughts}</think>{text}" if thoughts else open_thought(text)


def _content_text(content: Any) -> str:
    """Return the text of a message's field: itself, or that of its parts."""
    if isinstance(content, list):
        return "".join(map(_content_text, content))
    if isinstance(content, Mapping):
        return _content_text(content.get("text"))
    return content if isinstance(content, str) else ""


def environment_reward(completions: Sequence[Completion], rollout: Sequence[Rollout], **_: Any) -> list[float | None]:
    """Return what each rollout's environment gave for the whole episode: its outcome, or the sum of its turns' rewards.

    An episode in which it gave nothing, such as one whose first turn was malformed, earned 0. None where it
    failed: TRL leaves such a rollout out of its group's baseline.
    """
    return [None if one.termination is Termination.TOOL_FAILED else one.outcome or 0.0 for one in rollout]
