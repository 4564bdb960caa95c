"""Write, read and answer turns in the tag protocol of the paper.

    policy       <think> ... </think> <search> query </search>
    environment  <result>
                 [1] "Title" text
                 ...
                 </result>
    policy       <think> ... </think> <answer> \\boxed{X} </answer>

A turn ends with `</search>` or `</answer>`, the only two places where generation stops. A turn with neither block is
malformed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from a2tgpo.errors import RecipeError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.types import Termination
from a2tgpo.text_match import plain_text

TAGS = ("think", "search", "result", "answer")
STOP_STRINGS = ("</search>", "</answer>")

INSTRUCTION = (
    "Answer the question. In each turn, think inside <think> and </think>, then either search with "
    "<search> a few keywords </search>, which returns passages inside <result> and </result>, or give the final "
    "answer as <answer> \\boxed{a few words} </answer>."
)
"""The protocol in words, for a policy that was not trained in it."""

RESULT_FORMAT = '[{rank}] "{title}" {text}'
"""One passage, as a result shows it."""

SCAFFOLD = "<think> I now know the answer. </think> <answer> \\boxed{{answer}} </answer>"
"""The policy's own way to answer. Demonstrations end with it and the scorer reads the gold answer inside it, so
the likelihood measures what the policy knows and not how surprised it is by a foreign sentence."""

_OPENING = re.compile(r"<think>\s*(?:</think>\s*)?\Z")
"""An open thought, or a closed empty one, at the end of what stands before a turn."""
_ANSWER_OPEN = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FIELD = re.compile(r"\{(\w*)\}")


@dataclass(frozen=True)
class Search:
    """Ask the tool for passages on `query`."""

    query: str


@dataclass(frozen=True)
class Call:
    """Ask one of several tools; `text` is what stands between its tags."""

    tool: str
    text: str


@dataclass(frozen=True)
class Answer:
    """Give the final answer: the contents of `\\boxed{...}`."""

    text: str


@dataclass(frozen=True)
class Malformed:
    """Mark a turn that is not in the protocol; `reason` says what was expected."""

    reason: str


Action = Search | Answer | Malformed


@lru_cache
def tag_pattern(tools: tuple[str, ...] = ("search",)) -> re.Pattern[str]:
    """Match any tag of the protocol with these tools, in any case and spacing."""
    names = dict.fromkeys((*TAGS, *tools))
    return re.compile(r"<(\s*/?\s*(?:" + "|".join(map(re.escape, names)) + r")\s*)>", re.IGNORECASE)


@lru_cache
def _call_pattern(tools: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"<(?P<tool>{'|'.join(map(re.escape, tools))})>(?P<body>.*?)</(?P=tool)>", re.DOTALL)


def parse_turn(text: str) -> Action:
    """Read one policy turn, with the thought that its prompt opened; see `parse_call`."""
    found = parse_call(text, ("search",))
    if not isinstance(found, Call):
        return found
    return Search(found.text) if found.text else Malformed("empty search query")


def parse_call(text: str, tools: tuple[str, ...]) -> Call | Answer | Malformed:
    """Read one policy turn that may call any of `tools`.

    Outside of its thoughts the turn answers in an `<answer>` block, or calls the tool of the first block that has one.
    What it says besides does not matter, nor whether it thinks: a response that never does has no answer
    (`check_answer`). An answer in a thought that nobody closes is none.
    """
    outside = split_blocks(text, "think")[1]
    said = _outside_of_thoughts(text)
    if split_blocks(said, "answer")[0]:
        answer = _last_box(said)
        return Malformed("expected \\boxed{…} inside <answer>") if answer is None else Answer(answer)
    call = _call_pattern(tools).search(outside) if tools else None
    if call is None:
        blocks = " or ".join(f"<{name}>…</{name}>" for name in dict.fromkeys((*tools, "answer")))
        return Malformed(f"expected {blocks}")
    if tag_pattern(tools).search(call["body"]):
        return Malformed("protocol tag inside another block")
    return Call(call["tool"], call["body"].strip())


def given_answer(response: str) -> str | None:
    """Return the answer that `response`, everything the policy wrote, gives; None where it does not keep the format.

    The format asks for a `<think>…</think>` and, outside of thoughts, an `<answer>…</answer>` with a `\\boxed{…}`, the
    last of which is the answer; empty text where it is empty. Source: A²TGPO, arXiv 2605.06200, Eqs. 14 and 15.
    """
    thoughts, _ = split_blocks(response, "think")
    return _last_box(_outside_of_thoughts(response)) if thoughts else None


def check_answer(answer: Answer, response: str) -> Answer | Malformed:
    """Return `answer` if `response`, which ends in it, thought before; why it is none otherwise."""
    return answer if split_blocks(response, "think")[0] else Malformed("expected a <think>…</think> in some turn")


def _outside_of_thoughts(text: str) -> str:
    """Return what stands outside of thoughts; one that nobody closes goes on to the end."""
    return split_blocks(text, "think")[1].partition("<think>")[0]


def _last_box(text: str) -> str | None:
    boxes = [unbox(block) for block in split_blocks(text, "answer")[0]]
    return next((box for box in reversed(boxes) if box is not None), None)


def opened_thought(before: str) -> str:
    """Return the thought that `before`, the text before a turn, opens at its end, or opens and closes there.

    Chat templates of thinking models end the prompt in `<think>`, so that the policy's turn begins inside its thought;
    with thinking switched off they end it in an empty one. Empty text where `before` ends in neither.
    """
    match = _OPENING.search(before)
    return match[0] if match else ""


def unbox(text: str) -> str | None:
    """Return the last `\\boxed{...}` in `text` as plain text (`plain_text`); None without one, or if it stays open."""
    opened = [match.end() for match in _ANSWER_OPEN.finditer(text)]
    if not opened:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, opened[-1]):
        depth += (brace[0] == "{") - (brace[0] == "}")
        if depth == 0:
            return plain_text(text[opened[-1] : brace.start()])
    return None


def split_blocks(text: str, tag: str) -> tuple[list[str], str]:
    """Return the contents of every `<tag>…</tag>` in `text`, and what stands outside of them."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    inside, outside, position = [], [], 0
    while (start := text.find(opening, position)) >= 0 and (end := text.find(closing, start)) >= 0:
        outside.append(text[position:start])
        inside.append(text[start + len(opening) : end])
        position = end + len(closing)
    return inside, "".join(outside) + text[position:]


def open_thought(text: str) -> str:
    """Return `text` with `<think>` before it if it closes a thought that it does not open.

    So do the turns of a policy whose chat template opens the thought in the generation prompt.
    """
    opened, closed = text.find("<think>"), text.find("</think>")
    return f"<think>{text}" if closed >= 0 and not 0 <= opened < closed else text


def without_thoughts(text: str) -> str:
    """Return what `text` says outside of its thoughts, those that it does not open or does not close included."""
    outside = split_blocks(open_thought(text), "think")[1]
    return outside.rpartition("</think>")[2].partition("<think>")[0].strip()


@dataclass(frozen=True)
class Ending:
    """Say why a rollout ended, with the sentence behind it, and its answer if it gave one."""

    termination: Termination
    reason: str = ""
    answer: str | None = None


def judge_turn(action: Action, n_searches: int, max_searches: int, *, cut: bool) -> Search | Ending:
    """Return the search that the rollout goes on with, or the ending that the turn brings.

    Args:
        action: what the turn says.
        n_searches: searches made before it.
        max_searches: how many there may be.
        cut: whether the turn was cut off by its token budget, which excuses its form.
    """
    match action:
        case Answer(text):
            return Ending(Termination.ANSWERED, answer=text)
        case Malformed(reason):
            return Ending(Termination.OUT_OF_TOKENS if cut else Termination.MALFORMED, reason)
        case Search(query) if n_searches >= max_searches:
            return Ending(Termination.OUT_OF_TURNS, f"search {query!r} after {n_searches} searches")
        case Search():
            return action


def restore_stop(text: str, tools: tuple[str, ...] = ("search",)) -> str:
    """Return `text` with the tag that closes its open call or `<answer>`: servers cut off the stop string."""
    opened = {tag: text.rfind(f"<{tag}>") for tag in (*tools, "answer")}
    last = max(opened, key=lambda tag: opened[tag])
    return f"{text}</{last}>" if opened[last] > text.rfind(f"</{last}>") else text


def search_turn(thought: str, query: str) -> str:
    """Write a well-formed search turn, as demonstrations write it."""
    return f"<think> {thought} </think> <search> {query} </search>"


def answer_turn(answer: str) -> str:
    """Write the well-formed last turn: the scorer's own scaffold around `answer`."""
    return SCAFFOLD.replace("{answer}", answer, 1)


def check_wording(instruction: str | None, result_format: str | None) -> None:
    """Refuse words of a user's own that leave out what they are for; None is always right.

    Raises:
        RecipeError: an instruction that does not have `{question}` once; a result format that does not have `{text}`
            once, has a field other than `{rank}` and `{title}` beside it, or a tag of the protocol.
    """
    if instruction is not None and instruction.count("{question}") != 1:
        raise RecipeError(f"instruction={instruction!r}: it needs {{question}} once, where the question stands")
    if result_format is None:
        return
    names = _FIELD.findall(result_format)
    if names.count("text") != 1 or not set(names) <= {"rank", "title", "text"}:
        raise RecipeError(
            f"result_format={result_format!r}: it needs {{text}} once, and may have {{rank}} and {{title}} beside it"
        )
    if tag := tag_pattern().search(result_format):
        raise RecipeError(f"result_format={result_format!r}: {tag[0]} is the protocol's; say it in other words")


def render_result(passages: Iterable[Passage], result_format: str = RESULT_FORMAT) -> str:
    """Write the observation that answers a search, its passages neutralised; `no results` where there are none."""
    lines = [_shown(rank, passage, result_format) for rank, passage in enumerate(passages, start=1)]
    return "\n".join(["<result>", *(lines or ["no results"]), "</result>", ""])


def _shown(rank: int, passage: Passage, result_format: str) -> str:
    fields = {"rank": str(rank), "title": neutralise(passage.title), "text": neutralise(passage.text)}
    return _FIELD.sub(lambda match: fields[match[1]], result_format)


def neutralise(text: str, foreign_tokens: Iterable[str] = (), tools: tuple[str, ...] = ("search",)) -> str:
    """Make retrieved text unable to speak the protocol.

    `<search>` becomes `[search]`, in any case and spacing, and so for every protocol tag. Each string of
    `foreign_tokens` (a tokenizer's added tokens, which some tokenizers match inside plain text even when told not to
    read special tokens) is broken by a space after its first character.
    """
    text = tag_pattern(tools).sub(lambda match: f"[{match[1]}]", text)
    for token in foreign_tokens:
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
