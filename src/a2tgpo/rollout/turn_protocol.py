"""Say how turns call tools: in the paper's tags with any named tools, or in the chat template's own tool calls."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from a2tgpo.environments.environment import Action, Observation, Tool
from a2tgpo.environments.tool_environment import arguments_of
from a2tgpo.rollout.observation import ObservationEncoder
from a2tgpo.rollout.protocol import (
    RESULT_FORMAT,
    Answer,
    Call,
    Malformed,
    check_answer,
    opened_thought,
    parse_call,
    unbox,
    without_thoughts,
)
from a2tgpo.signals.answer_likelihood.scaffold import TAIL

_KEPT = 4096
"""Texts and tokens that are kept of each kind."""


class TurnProtocol(Protocol):
    """Read the policy's turns and write what it reads after them."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Return the texts that end a turn, beside the end of sequence."""

    @property
    def tool_schemas(self) -> list[dict[str, Any]] | None:
        """Return the tools as the chat template takes them; None where the prompt does not list them."""

    def write(self, text: str) -> list[int]:
        """Return the tokens of a turn written by hand in the paper's tags, as the policy would write it."""

    def read(self, turn: list[int], before: list[int]) -> Sequence[Action] | Answer | Malformed:
        """Read one turn: its calls, or its answer.

        Args:
            turn: the tokens that the policy wrote.
            before: the tokens that the environment wrote last: the prompt, or an observation.
        """

    def check_answer(self, answer: Answer, turn_texts: Sequence[str]) -> Answer | Malformed:
        """Return `answer` if the response that ends in it keeps the format; why it is none otherwise."""

    def text(self, turn: list[int], before: list[int]) -> str:
        """Return the turn as it is read: without the end of sequence, with the thought that `before` opened."""

    def show(self, answered: Sequence[tuple[Action, Observation]], before: list[int]) -> list[int]:
        """Return the tokens that show the answers to a turn's calls, up to where the policy writes on.

        Args:
            answered: the calls, each with what the environment says to it; the last of all may be left out.
            before: the tokens of the prompt.
        """


def opening_ids(tokenizer: PreTrainedTokenizerBase, before: list[int]) -> list[int]:
    """Return the last tokens of `before` that open a thought, or open and close one; none where it ends otherwise."""
    if not _opening(tokenizer, before):
        return []
    n_tokens = next(n for n in range(1, TAIL + 1) if "<think>" in tokenizer.decode(before[-n:]))
    return before[-n_tokens:]


def _opening(tokenizer: PreTrainedTokenizerBase, before: list[int]) -> str:
    return opened_thought(tokenizer.decode(before[-TAIL:]))


def _without_end(tokenizer: PreTrainedTokenizerBase, turn: list[int]) -> list[int]:
    return turn[:-1] if turn and turn[-1] == tokenizer.eos_token_id else turn


def _check_tags(tokenizer: PreTrainedTokenizerBase, tools: Sequence[str]) -> None:
    """Refuse a tokenizer of which no turn could be read, because it makes something else of a tag.

    Raises:
        ValueError: names the tags, and what becomes of them.
    """
    names = dict.fromkeys((*tools, "think", "result", "answer"))
    tags = [f"<{slash}{name}>" for name in names for slash in ("", "/")]
    written = {tag: tokenizer.decode(tokenizer(tag, add_special_tokens=False)["input_ids"]) for tag in tags}
    if lost := [tag for tag in tags if tag not in written[tag]]:
        raise ValueError(
            f"the tokenizer cannot write {', '.join(lost)}: it makes {written[lost[0]]!r} of {lost[0]}, and no turn "
            f"could be read. Rename a tool to what it can write, add the tags (tokenizer.add_tokens({lost}) and "
            "model.resize_token_embeddings(len(tokenizer))), or call tools through the chat template (protocol: tools)"
        )


class TagProtocol:
    """Call tools in tags, as the paper does: `<think> … </think> <tool> … </tool>` (a `TurnProtocol`).

    Where the prompt's template opens a thought before the turn, it is opened again after every observation, and counts
    as the turn's own.

    Args:
        tokenizer: the policy's.
        tools: their names are the tags; what stands between is the one argument, or a JSON object of several.
        passage_tokens: most tokens of a passage's text.
        text_tokens: most tokens of an observation that is text.
        result_format: how a passage is shown.

    Raises:
        ValueError: a tool has a name of the protocol, or the tokenizer cannot write a tag.
    """

    tool_schemas = None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Sequence[Tool],
        passage_tokens: int = 160,
        text_tokens: int | None = None,
        result_format: str = RESULT_FORMAT,
    ) -> None:
        names = tuple(tool.name for tool in tools)
        if taken := {"think", "result"} & set(names):
            raise ValueError(f"tools {sorted(taken)} have names of the tag protocol; rename them")
        _check_tags(tokenizer, names)
        self.tokenizer = tokenizer
        self.tools = tuple(name for name in names if name != "answer")
        self.stop_strings = tuple(f"</{name}>" for name in (*self.tools, "answer"))
        self.encode = ObservationEncoder(tokenizer, passage_tokens, text_tokens, self.tools, result_format)
        # Each turn is read twice, and the prompt's end once for every observation.
        self._texts = lru_cache(maxsize=_KEPT)(self._text)
        self._openings = lru_cache(maxsize=_KEPT)(lambda end: opening_ids(tokenizer, list(end)))

    def read(self, turn: list[int], before: list[int]) -> Sequence[Action] | Answer | Malformed:
        """Read one turn, whose thought may have been opened before it."""
        found = parse_call(self.text(turn, before), self.tools)
        if not isinstance(found, Call):
            return found
        if found.tool == "search" and not found.text:
            return Malformed("empty search query")
        return [Action(found.tool, found.text)]

    def write(self, text: str) -> list[int]:
        """Return the tokens of a turn written by hand."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def check_answer(self, answer: Answer, turn_texts: Sequence[str]) -> Answer | Malformed:
        """Return `answer` if some turn has a thought; the paper's format asks for one (`given_answer`)."""
        return check_answer(answer, "\n".join(turn_texts))

    def text(self, turn: list[int], before: list[int]) -> str:
        """Return the turn's text, as if the thought opened before it were its own; one that it opens itself is."""
        return self._texts(tuple(turn), tuple(before[-TAIL:]))

    def _text(self, turn: tuple[int, ...], before: tuple[int, ...]) -> str:
        text = self.tokenizer.decode(_without_end(self.tokenizer, list(turn)))
        return text if text.lstrip().startswith("<think>") else _opening(self.tokenizer, list(before)) + text

    def show(self, answered: Sequence[tuple[Action, Observation]], before: list[int]) -> list[int]:
        """Return the `<result>` block, and the thought that the prompt opens."""
        ((_, shown),) = answered
        return self.encode(shown) + self._openings(tuple(before[-TAIL:]))


class ToolCallProtocol:
    """Call tools as the model's chat template writes them, several in a turn where it wants (a `TurnProtocol`).

    A turn is parsed by `tokenizer.parse_response` of transformers. Conversations only grow: what was sampled stays as
    it was, thoughts included, also where the template would drop them from earlier turns.

    Args:
        tokenizer: the policy's, with a `response_template`; `trl.chat_template_utils.add_response_schema` sets it for
            the templates it knows.
        tools: listed in the prompt.
        template: what else the chat template takes.
        text_tokens: most tokens of one answer.
        passage_tokens: most tokens of a passage's text.

    Raises:
        ValueError: the tokenizer cannot parse a turn, or its template shows a tool's answer in a way that no
            conversation can be continued with.
    """

    stop_strings: tuple[str, ...] = ()

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        tools: Sequence[Tool],
        template: Mapping[str, Any] | None = None,
        text_tokens: int = 480,
        passage_tokens: int = 160,
    ) -> None:
        if not any(getattr(tokenizer, name, None) for name in ("response_template", "response_schema")):
            raise ValueError(
                "the tokenizer has no response_template, by which transformers reads tool calls; set it with "
                "trl.chat_template_utils.add_response_schema(tokenizer), or use the tag protocol"
            )
        self.tokenizer, self.template = tokenizer, dict(template or {})
        self._tools = {tool.name: tool for tool in tools}
        self.tool_schemas: list[dict[str, Any]] | None = [tool.schema for tool in tools]
        self._encoder = ObservationEncoder(tokenizer, passage_tokens, text_tokens)
        self._suffixes = lru_cache(maxsize=_KEPT)(self._suffix_of)
        self._takes = set(inspect.signature(tokenizer.parse_response).parameters)
        self._suffix([{"role": "tool", "name": tools[0].name, "content": "x"}])

    def read(self, turn: list[int], before: list[int]) -> Sequence[Action] | Answer | Malformed:
        """Parse one turn; without a call its content is the answer, the last `\\boxed{…}` of it where there is one."""
        given = {"prefix": before, "tools": self.tool_schemas}
        try:
            message = self.tokenizer.parse_response(turn, **{k: v for k, v in given.items() if k in self._takes})
        except (ValueError, TypeError, KeyError) as error:
            return Malformed(f"the turn cannot be parsed: {error}")
        message = message or {}
        try:
            actions = [_action(call) for call in message.get("tool_calls") or []]
        except (TypeError, KeyError, ValueError) as error:
            return Malformed(f"a tool call cannot be read: {error!r}")
        if actions:
            return actions
        content = message.get("content") or ""
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        text = text.removesuffix(str(self.tokenizer.eos_token or "")).strip()
        return Answer(unbox(text) or text) if text else Malformed("neither a tool call nor an answer")

    def write(self, text: str) -> list[int]:
        """Return the tokens of a turn written by hand in the paper's tags, its call as the template writes it.

        What stands before the call, such as a thought, is the message's content. A turn without tags is tokenised as it
        stands. Either ends with the end of sequence.

        Raises:
            ValueError: the template does not begin an assistant's message where the policy would begin it.
        """
        found, end = parse_call(text, tuple(self._tools)), self.tokenizer.eos_token_id
        if isinstance(found, Malformed):
            return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], end]
        if isinstance(found, Call):
            arguments = arguments_of(Action(found.tool, found.text), self._tools[found.tool])
            content = text.partition(f"<{found.tool}>")[0].strip()
            calls = [{"type": "function", "function": {"name": found.tool, "arguments": arguments}}]
            message = {"role": "assistant", "content": content, "tool_calls": calls}
        else:
            content = text.partition("<answer>")[0].strip()
            message = {"role": "assistant", "content": f"{content} \\boxed{{{found.text}}}".strip()}
        asked = [{"role": "user", "content": "x"}]
        before = self._render(asked, add_generation_prompt=True)
        whole = self._render([*asked, message], add_generation_prompt=False)
        if whole[: len(before)] != before:  # a prompt that closes the thought leaves no place for another
            message["content"] = without_thoughts(str(message["content"]))
            whole = self._render([*asked, message], add_generation_prompt=False)
        if whole[: len(before)] != before:
            raise ValueError(
                f"the chat template begins an assistant's message with {self.tokenizer.decode(whole)[-200:]!r} and not "
                "where the policy begins; write demonstrations in the template's own words"
            )
        ids = whole[len(before) :]
        last = len(ids) - 1 - ids[::-1].index(end) if end in ids else len(ids)
        return [*ids[:last], end]

    def check_answer(self, answer: Answer, turn_texts: Sequence[str]) -> Answer | Malformed:
        """Return `answer`: a chat template has a format of its own, which is the reward's to judge."""
        return answer

    def text(self, turn: list[int], before: list[int]) -> str:
        """Return the turn's text, calls as they are written."""
        return _opening(self.tokenizer, before) + self.tokenizer.decode(_without_end(self.tokenizer, turn))

    def show(self, answered: Sequence[tuple[Action, Observation]], before: list[int]) -> list[int]:
        """Return the tools' answers as the template renders them, up to where the policy writes on."""
        messages = [
            {"role": "tool", "name": action.tool, "content": self._encoder.plain(_as_text(shown))}
            for action, shown in answered
        ]
        return self._suffix(messages)

    def _suffix(self, messages: list[dict[str, Any]]) -> list[int]:
        """Render `messages` after a call, and cut off what stands before them."""
        return list(self._suffixes(json.dumps(messages)))

    def _suffix_of(self, written: str) -> list[int]:
        messages = json.loads(written)
        call = {"type": "function", "function": {"name": messages[0]["name"], "arguments": {}}}
        asked: list[dict[str, Any]] = [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        prefix = self._render(asked, add_generation_prompt=False)
        whole = self._render(asked + messages, add_generation_prompt=True)
        # A turn ends with the end of sequence, here the last of `prefix`; what the template writes after it belongs to
        # the next message. What it writes before may change once an answer follows: some drop an empty thought.
        end = self.tokenizer.eos_token_id
        n_ends = prefix.count(end)
        ends = [i for i, token in enumerate(whole) if token == end]
        if n_ends and len(ends) >= n_ends:
            return whole[ends[n_ends - 1] + 1 :]
        if n_ends or whole[: len(prefix)] != prefix or len(whole) == len(prefix):
            raise ValueError(
                "the chat template rewrites a call once its answer follows, so that a conversation cannot be "
                "continued token by token; use a template that keeps what was said (trl.chat_template_utils."
                "get_training_chat_template has some), or the tag protocol"
            )
        return whole[len(prefix) :]

    def _render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool) -> list[int]:
        return self.tokenizer.apply_chat_template(
            messages,
            tools=self.tool_schemas,
            add_generation_prompt=add_generation_prompt,
            tokenize=True,
            return_dict=False,
            **self.template,
        )


def _action(call: Mapping[str, Any]) -> Action:
    function = call.get("function", call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = json.loads(arguments or "{}")
    arguments = {} if arguments is None else arguments
    if not isinstance(function["name"], str) or not isinstance(arguments, Mapping):
        raise TypeError(f"{function!r}")
    return Action(function["name"], json.dumps(arguments, ensure_ascii=False), arguments)


def _as_text(shown: Observation) -> str:
    if isinstance(shown, str):
        return shown
    lines = [f'[{rank}] "{passage.title}" {passage.text}' for rank, passage in enumerate(shown, start=1)]
    return "\n".join(lines) or "no results"
