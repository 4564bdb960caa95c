"""Read what a chat server answers, without trusting it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


class ModelFailure(Exception):
    """Say that the model gave one question no answer; the message is the outcome's reason."""


@dataclass(frozen=True)
class Call:
    """Hold a tool call as the model wrote it; `arguments` should be JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """Hold one message of the model.

    Attributes:
        text: what it wrote; thoughts that the server parsed out stand in front again, inside `<think>`.
        calls: tool calls that the server parsed out.
        cut: whether the message was cut off by its token budget.
        may_lack_stop: whether it may have ended with a stop string, which servers cut off.
        prompt_tokens: tokens of the whole conversation before it, as the server counts them.
        completion_tokens: tokens of the message.
    """

    text: str
    calls: tuple[Call, ...]
    cut: bool
    may_lack_stop: bool
    prompt_tokens: int
    completion_tokens: int


def read_reply(body: str) -> Reply:
    """Read a chat completion.

    Raises:
        ModelFailure: it is none, lacks the token counts, or says that the answer was withheld.
    """
    try:
        data = json.loads(body)
        choice, usage = data["choices"][0], data["usage"]
        message = choice["message"]
        reply = Reply(
            text=_with_thoughts(message),
            calls=tuple(map(_call, message.get("tool_calls") or ())),
            cut=choice["finish_reason"] == "length",
            # vLLM says by which string it stopped, and null for the end of sequence; others say only that they stopped.
            may_lack_stop=choice["finish_reason"] == "stop" and isinstance(choice.get("stop_reason", ""), str),
            prompt_tokens=_count(usage["prompt_tokens"]),
            completion_tokens=_count(usage["completion_tokens"]),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFailure(f"the server answered what is not a chat completion: {body[:200]!r}") from error
    if choice["finish_reason"] == "content_filter":
        raise ModelFailure("the server withheld the answer (content_filter)")
    return reply


def _with_thoughts(message: dict[str, Any]) -> str:
    text = _text(message.get("content") or "")
    thoughts = _text(message.get("reasoning_content") or message.get("reasoning") or "")
    return f"<think>{thoughts}</think>{text}" if thoughts else text


def _call(call: dict[str, Any]) -> Call:
    function = call["function"]
    return Call(_text(call["id"]), _text(function["name"]), _text(function["arguments"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair could not be sent or kept


def _count(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a number of tokens")
    return value
