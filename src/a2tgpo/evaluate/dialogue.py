"""Let a chat model call tools and answer: with the paper's tags in its text, or with native tool calls."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from a2tgpo.chat_reply import Call, Reply, sendable
from a2tgpo.environments.environment import Action, Tool
from a2tgpo.environments.search_environment import SEARCH
from a2tgpo.rollout.protocol import (
    INSTRUCTION,
    Answer,
    Malformed,
    check_answer,
    open_thought,
    parse_call,
    restore_stop,
    split_blocks,
    unbox,
    without_thoughts,
)
from a2tgpo.rollout.protocol import Call as TagCall

Message = dict[str, Any]

Asks = Action | Answer | Malformed
"""A model asks for this: a call, or the end."""

UNPARSED = "the server did not parse its tool calls"
"""Beginning of the reason of an answer whose text shows a call."""

_CALL_MARK = re.compile(
    r"<[|｜/]?\s*tool[_▁]call|<start_function_call>|<function(=|_calls?>)|<invoke\s|\[TOOL_CALLS?\]|<\|python_tag\|>"
    r"|<\|action_start\|>|to=functions\.|```tool_c",
    re.IGNORECASE,
)
_CALL_ALONE = re.compile(r"\[?\s*search\s*\(.*\)\s*\]?", re.DOTALL)
_FENCE = re.compile(r"```\w*\s*(.*?)\s*```", re.DOTALL)


class Dialogue(Protocol):
    """Say how a model calls tools and answers in chat messages.

    Attributes:
        instruction: the system message, unless the user gives one.
        options: of every request.
    """

    instruction: str
    options: dict[str, Any]

    def message(self, reply: Reply) -> Message:
        """Return `reply` as the conversation keeps it."""

    def actions(self, reply: Reply) -> list[Asks]:
        """Return what `reply` asks for, in order: calls, or one answer or mistake."""

    def check_answer(self, answer: Answer, said: Sequence[Message]) -> Answer | Malformed:
        """Return `answer` if the messages that end in it keep the format; why it is none otherwise."""

    def result(self, reply: Reply, index: int, text: str) -> Message:
        """Return the result of the call that is action `index` of `reply`."""


class TagDialogue:
    """Speak the tag protocol; each turn is a message of the model and each result a message of the user.

    In training a whole rollout is one message of the model. A checkpoint that was trained so is measured as trained by
    the local policies; over chat messages it reads the same text with the chat template's marks between.

    Args:
        tools: their names are the tags.
    """

    def __init__(self, tools: Sequence[Tool] = (SEARCH,)) -> None:
        self.tools = tuple(tool.name for tool in tools if tool.name != "answer")
        self.instruction = INSTRUCTION if self.tools == (SEARCH.name,) else _tags_in_words(tools)
        self.options: dict[str, Any] = {"stop": [f"</{name}>" for name in (*self.tools, "answer")]}

    def message(self, reply: Reply) -> Message:
        return {"role": "assistant", "content": self._whole(reply)}

    def actions(self, reply: Reply) -> list[Asks]:
        # The server's chat template may have opened the thought.
        found = parse_call(open_thought(self._whole(reply)), self.tools)
        if not isinstance(found, TagCall):
            return [found]
        if found.tool == SEARCH.name and not found.text:
            return [Malformed("empty search query")]
        return [Action(found.tool, found.text)]

    def check_answer(self, answer: Answer, said: Sequence[Message]) -> Answer | Malformed:
        turns = [open_thought(message["content"]) for message in said if message["role"] == "assistant"]
        return check_answer(answer, "\n".join(turns))

    def result(self, reply: Reply, index: int, text: str) -> Message:
        return {"role": "user", "content": text}

    def _whole(self, reply: Reply) -> str:
        return restore_stop(reply.text, self.tools) if reply.may_lack_stop else reply.text


def _tags_in_words(tools: Sequence[Tool]) -> str:
    """Describe the tag protocol, for a policy that was not trained in it."""
    calls = "; ".join(f"<{tool.name}> … </{tool.name}>: {tool.description or 'a tool'}" for tool in tools)
    return (
        "In each turn, think inside <think> and </think>, then call one tool by its tags, with its argument between "
        f"them, or a JSON object of several arguments: {calls} What it answers stands inside <result> and </result>. "
        "Where you are asked for an answer, give it as <answer> \\boxed{a few words} </answer>."
    )


class ToolDialogue:
    """Speak in native tool calls (ReAct): the model calls tools until a message without a call is its answer.

    The answer is what the last `\\boxed{...}` of that message holds, else its last `<answer>` block, else all of it
    unless it was cut off; thoughts do not count, closed or not. A call whose arguments are not `{"query": text}` is
    malformed, and so is one that the server left in the text. Tools other than `search` say themselves what is wrong
    with a call's name or arguments, and the model reads it; arguments that are no JSON object are malformed.

    Args:
        tools: listed in every request.
    """

    def __init__(self, tools: Sequence[Tool] = (SEARCH,)) -> None:
        self.searches = tuple(tool.name for tool in tools) == (SEARCH.name,)
        self.instruction = (
            "Answer the question. Look facts up with the tool `search`, as often as you need. When you know the "
            "answer, give it in a few words as \\boxed{a few words}."
            if self.searches
            else "Call the tools as often as you need. Where you are asked for an answer, give it in a few words as "
            "\\boxed{a few words}."
        )
        schemas = [_SEARCH_SCHEMA] if self.searches else [tool.schema for tool in tools]
        self.options: dict[str, Any] = {"tools": schemas, "tool_choice": "auto"}

    def message(self, reply: Reply) -> Message:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in reply.calls
        ]
        return {"role": "assistant", "content": reply.text} | ({"tool_calls": calls} if calls else {})

    def actions(self, reply: Reply) -> list[Asks]:
        read = _search if self.searches else _called
        return [read(call) for call in reply.calls] or [_answer(reply)]

    def check_answer(self, answer: Answer, said: Sequence[Message]) -> Answer | Malformed:
        return answer

    def result(self, reply: Reply, index: int, text: str) -> Message:
        return {"role": "tool", "tool_call_id": reply.calls[index].id, "content": text}


_SEARCH_SCHEMA = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Returns the passages that fit a few keywords best.",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string", "description": "a few keywords"}},
            "required": ["query"],
        },
    },
}


def _called(call: Call) -> Asks:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, TypeError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return Malformed(f"the arguments of {call.name} are no JSON object: {str(call.arguments)[:200]!r}")
    return Action(call.name, call.arguments, arguments)


def _search(call: Call) -> Asks:
    if call.name != "search":
        return Malformed(f"call of an unknown tool {call.name!r}")
    try:
        query = sendable(json.loads(call.arguments)["query"]).strip()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return Malformed(f"the arguments of a search are not {{'query': text}}: {call.arguments[:200]!r}")
    return Action(SEARCH.name, query) if query else Malformed("empty search query")


def _answer(reply: Reply) -> Answer | Malformed:
    text = without_thoughts(reply.text)
    if _shows_a_call(text):
        return Malformed(f"{UNPARSED}: {text[:80]!r}")
    given = unbox(text) or "".join(split_blocks(text, "answer")[0][-1:]).strip()
    if given:
        return Answer(given)
    return Answer(text) if text and not reply.cut else Malformed("neither a tool call nor an answer")


def _shows_a_call(text: str) -> bool:
    """Say whether `text` has a call in one of the forms in which models write them: between marks, or alone."""
    if _CALL_MARK.search(text) or _CALL_ALONE.fullmatch(text):
        return True
    fenced = _FENCE.fullmatch(text)
    try:
        written = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    calls = written if isinstance(written, list) else [written]
    return bool(calls) and all(
        isinstance(call, dict)
        and ("function" in call or ("name" in call and {"arguments", "parameters"} & call.keys()))
        for call in calls
    )


DIALOGUES: dict[str, Callable[[Sequence[Tool]], Dialogue]] = {"tags": TagDialogue, "tools": ToolDialogue}
"""By the name the user gives; made of an environment's tools."""


def transcript(messages: list[Message]) -> str:
    """Return the messages after the prompt as one text; tool calls stand as `<tool_call>` blocks of JSON."""
    lines = []
    for message in messages:
        calls = [call["function"] for call in message.get("tool_calls", ())]
        lines += [message["content"], *(f"<tool_call> {json.dumps(c, ensure_ascii=False)} </tool_call>" for c in calls)]
    return "\n".join(line for line in lines if line)
