"""Thoughts that the chat template opens, with or without the tag in the turn, and thoughts that nobody closes."""

from __future__ import annotations

import pytest

from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.demonstration import Demonstration, Lookup, encode_demonstration
from a2tgpo.rollout.types import Rollout, Termination
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine

KELO = Passage("p", "Kelo", "The mentor of Kelo is Bora.")
OPEN, EMPTY = "<think>\n", "<think>\n\n</think>\n\n"


def agent(opening: str) -> SearchAgent:
    """A search agent whose chat template ends the prompt in `opening`."""
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + opening + "{% endif %}"
    )
    limits = RolloutLimits(max_completion_tokens=800, max_turn_tokens=300)
    return SearchAgent(tokenizer, lambda queries: [[KELO] for _ in queries], limits)


def play(opening: str, turns: list[str]) -> Rollout:
    """The rollout of these turns."""
    searching = agent(opening)
    (rollout,) = searching.run(["Who is the mentor of Kelo?"], ScriptedEngine(searching.tokenizer, [turns]))
    return rollout


@pytest.mark.parametrize(
    ("opening", "search", "answer"),
    [
        (OPEN, "I need it.\n</think>\n\n<search> kelo </search>", "I know.</think><answer> \\boxed{Bora} </answer>"),
        (OPEN, "<think> so </think> <search> kelo </search>", "<think> so </think> <answer> \\boxed{Bora} </answer>"),
        (EMPTY, "<search> kelo </search>", "<answer> \\boxed{Bora} </answer>"),
        (EMPTY, "<think> so </think> <search> kelo </search>", "<answer> \\boxed{Bora} </answer>"),
        ("", "<think> so </think> <search> kelo </search>", "<think> so </think> <answer> \\boxed{Bora} </answer>"),
    ],
)
def test_turns_are_read_as_if_the_tag_stood_before_them(opening: str, search: str, answer: str) -> None:
    """With templates that open the thought, that open and close it, and that do neither; in the first turn and after
    a result, where the thought is opened again by tokens that are not the policy's."""
    rollout = play(opening, [search, answer])
    assert rollout.termination is Termination.ANSWERED and rollout.answer == "Bora"
    assert rollout.opened is (opening == OPEN)
    assert all(text.startswith("<think>") for text in rollout.turn_texts)
    decoded = qwen_tokenizer().decode(rollout.completion_ids)
    assert decoded.startswith(search) and decoded.endswith(f"</result>\n{opening}{answer}<|im_end|>")
    written = [t for t, own in zip(rollout.completion_ids, rollout.model_mask, strict=True) if own]
    assert qwen_tokenizer().decode(written) == search + answer


@pytest.mark.parametrize(
    ("opening", "turn"),
    [
        (OPEN, "I think that <answer> \\boxed{Bora} </answer>"),
        (OPEN, "so </think> and </think> <answer> \\boxed{Bora} </answer>"),
        ("", "I know. </think> <answer> \\boxed{Bora} </answer>"),
        ("", "<think> so <answer> \\boxed{Bora} </answer>"),
    ],
)
def test_a_thought_that_nobody_closes_or_opens_is_no_answer(opening: str, turn: str) -> None:
    """An answer inside a thought is a thought; a tag that no one opened is malformed."""
    rollout = play(opening, [turn])
    assert rollout.termination is Termination.MALFORMED and rollout.answer is None


def test_a_thought_cut_by_length_is_no_answer() -> None:
    """The turn's budget ends inside it."""
    rollout = play(OPEN, ["I think and think " * 40])
    assert rollout.termination is Termination.OUT_OF_TOKENS and rollout.answer is None


@pytest.mark.parametrize("opening", [OPEN, EMPTY, ""])
def test_demonstrations_are_what_a_policy_would_have_written(opening: str) -> None:
    """Played back turn by turn, an encoded demonstration gives the same tokens and masks, and is answered."""
    searching = agent(opening)
    question = "Who is the mentor of Kelo?"
    shown = Demonstration(question, (Lookup("I need it.", "kelo", (KELO,)),), "Bora")
    encoded = encode_demonstration(searching, shown)
    prompt = searching.encode_prompt(question)
    ids, mask = encoded["input_ids"][len(prompt) :], encoded["completion_mask"][len(prompt) :]
    runs: list[list[int]] = [[]]
    for token, own in zip(ids, mask, strict=True):
        if own:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    turns = [run for run in runs if run]
    (rollout,) = searching.run([question], ScriptedEngine(searching.tokenizer, [turns]))
    assert (rollout.completion_ids, rollout.model_mask) == (ids, mask)
    assert rollout.termination is Termination.ANSWERED
