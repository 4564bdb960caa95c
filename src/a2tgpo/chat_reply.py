"""Read what a chat server answers: all dialects that can be read, none of it on trust."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields into which servers and response parsers move a message's thoughts."""

_CUT = ("length", "max_tokens", "model_length")


class ModelFailure(Exception):
    """Say that the model gave one question no answer; the message is the outcome's reason."""


class TooSlow(ModelFailure):
    """Say that the answer to one question took too long."""


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
        prompt_tokens: tokens of the whole conversation before it, as the server counts them; None where it does not.
        completion_tokens: tokens of the message, or None.
    """

    text: str
    calls: tuple[Call, ...]
    cut: bool
    may_lack_stop: bool
    prompt_tokens: int | None
    completion_tokens: int | None


class _Unreadable(Exception):
    """Name the field of a completion that cannot be read, and what stands there."""

    def __init__(self, field: str, value: Any, expected: str) -> None:
        found = "is missing" if value is None else f"is {str(value)[:80]!r}"
        super().__init__(f"{field} {found}, expected {expected}")


def read_reply(body: str, turn: int = 0) -> Reply:
    """Read a chat completion, the answer to the conversation's request `turn`.

    Servers differ: token counts may be missing; a message's content may be text, null, or a list of parts; the
    arguments of a call text or an object; its id missing, null, a number, or that of another call, in whose place it
    gets one that no other call of the conversation has.

    Raises:
        ModelFailure: the answer is an error, is no chat completion, which names the field that cannot be read, or says
            that it was withheld.
    """
    try:
        data = json.loads(body)
        if isinstance(data, dict) and "choices" not in data and data.get("error"):
            raise ModelFailure(f"the server answered with an error: {_error_text(data['error'])}")
        return _read_completion(data, turn)
    except (ValueError, RecursionError) as error:
        raise ModelFailure(
            f"the server answered what is not a chat completion: no readable JSON; {body[:200]!r}"
        ) from error
    except _Unreadable as error:
        raise ModelFailure(f"the server answered what is not a chat completion: {error}; {body[:200]!r}") from error


def _read_completion(data: Any, turn: int) -> Reply:
    completion = _object(data, "the answer")
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices:
        raise _Unreadable("choices", choices, "a list of at least one choice")
    choice = _object(choices[0], "choices[0]")
    message = _object(choice.get("message"), "choices[0].message")
    if choice.get("finish_reason") == "content_filter":
        raise ModelFailure("the server withheld the answer (content_filter)")
    usage = completion.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Reply(
        text=_with_thoughts(message),
        calls=_calls(message, turn),
        cut=choice.get("finish_reason") in _CUT,
        # vLLM says by which string it stopped, and null for the end of sequence; others say only that they stopped.
        may_lack_stop=choice.get("finish_reason") == "stop" and isinstance(choice.get("stop_reason", ""), str),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
    )


def _with_thoughts(message: Mapping[str, Any]) -> str:
    parsed = next((name for name in THOUGHT_FIELDS if message.get(name)), "")
    thoughts, own = _text(message.get(parsed), f"message.{parsed}")
    thoughts_inside, text = _text(message.get("content"), "message.content")
    thoughts += own + thoughts_inside
    return f"<think>{thoughts}</think>{text}" if thoughts else text


def _text(value: Any, field: str) -> tuple[str, str]:
    """Return the thoughts and the text of a field: text, or parts that have text or thoughts."""
    if value is None:
        return "", ""
    if isinstance(value, str):
        return "", sendable(value)
    if isinstance(value, Mapping):
        for name in ("thinking", "reasoning", "text", "refusal", "content"):
            if isinstance(value.get(name), str | list):
                thoughts, text = _text(value[name], f"{field}.{name}")
                return (thoughts + text, "") if name in ("thinking", "reasoning") else (thoughts, text)
    if isinstance(value, list):
        parts = [_text(part, f"{field}[{index}]") for index, part in enumerate(value)]
        return "".join(thoughts for thoughts, _ in parts), "".join(text for _, text in parts)
    raise _Unreadable(field, value, "text or a list of parts with text")


def sendable(text: str) -> str:
    """Return `text` without halves of surrogate pairs, which JSON can spell and which could not be sent or kept."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _calls(message: Mapping[str, Any], turn: int) -> tuple[Call, ...]:
    written = message.get("tool_calls") or message.get("function_call") or []
    calls = [_call(call, i, turn) for i, call in enumerate(written if isinstance(written, list) else [written])]
    times = Counter(call.id for call in calls)
    return tuple(
        call if times[call.id] == 1 else Call(_made_up_id(turn, i), call.name, call.arguments)
        for i, call in enumerate(calls)
    )


def _call(written: Any, index: int, turn: int) -> Call:
    field = f"message.tool_calls[{index}]"
    call = _object(written, field)
    function = _object(call.get("function") or call, f"{field}.function")
    name, arguments, given = function.get("name"), function.get("arguments"), call.get("id")
    if not isinstance(name, str):
        raise _Unreadable(f"{field}.function.name", name, "text")
    return Call(
        id=_text(given, "id")[1] if given and isinstance(given, str) else _made_up_id(turn, index),
        name=_text(name, "name")[1],
        arguments=_text(arguments, "arguments")[1]
        if isinstance(arguments, str)
        else json.dumps(arguments, ensure_ascii=False),
    )


def _made_up_id(turn: int, index: int) -> str:
    # Nine letters and digits: some chat templates accept no other ids.
    return f"call{turn % 1000:03}{index % 100:02}"


def _object(value: Any, field: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _Unreadable(field, value, "an object")
    return value


def _count(value: Any) -> int | None:
    """Return a number of tokens, however it is written; None for what is none."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return None if isinstance(value, bool) or number < 0 else number


def _error_text(error: Any) -> str:
    message = error.get("message") if isinstance(error, Mapping) else error
    return str(message or error)[:500]
