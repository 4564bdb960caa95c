"""Thoughts that the chat template opens, with or without the tag in the turn, and thoughts that nobody closes."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch

from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.demonstration import Demonstration, Lookup, encode_demonstration
from a2tgpo.rollout.engine import Continuation
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.protocol import SCAFFOLD
from a2tgpo.rollout.types import Rollout, Termination
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, plain_forward
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.scripted import ScriptedEngine
from tests.rollout.test_kv_cache_engine import random_model, sampling

TOKENIZER = qwen_tokenizer()
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
        ("", "I know. </think> <answer> \\boxed{Bora} </answer>"),
        ("", "<think> so <answer> \\boxed{Bora} </answer>"),
    ],
)
def test_a_thought_that_nobody_closes_or_opens_is_no_answer(opening: str, turn: str) -> None:
    """An answer inside a thought is a thought; a tag that no one opened is malformed."""
    rollout = play(opening, [turn])
    assert rollout.termination is Termination.MALFORMED and rollout.answer is None


def test_an_open_thought_in_a_later_turn_is_no_answer_either() -> None:
    """The first turn thinks and searches; the second answers inside a thought that it does not close."""
    search = "<think> a </think> <search> kelo </search>"
    rollout = play("", [search, "<think> perhaps <answer> \\boxed{Bora} </answer>"])
    assert rollout.termination is Termination.MALFORMED and rollout.answer is None
    assert exact_match_reward([""], [["Bora"]], [rollout]) == [-1.0]


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


def answer_logp(model: Any, prompt: list[int], words: str, answer: str) -> float:
    """Mean log-probability of the tokens of `answer` after the prompt and `words`, from one plain forward."""
    before = prompt + TOKENIZER(words, add_special_tokens=False)["input_ids"]
    ids = before + TOKENIZER(answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logps = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return fmean(logps[at - 1, ids[at]].item() for at in range(len(before), len(ids)))


def test_the_answer_is_scored_inside_the_thought_that_the_prompt_opened() -> None:
    """Of two prompts one ends in an open thought: there the scaffold's words follow without their tag, where a pass
    scores the rollouts and where the KV cache of generation does."""
    model = random_model("qwen3")
    prompts = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in (f"Who? {OPEN}", "Who? Go on\n")]
    words = SCAFFOLD.partition("{answer}")[0]
    assert words.startswith("<think> ")
    inside, whole = words.removeprefix("<think> "), words
    expected = [answer_logp(model, p, w, "Bora") for p, w in zip(prompts, (inside, whole), strict=True)]

    scorer = AnswerScorer(AnswerScaffold(SCAFFOLD), TOKENIZER, likelihood="log_probability")
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    turn, one = torch.full((2, 1), 65), torch.ones(2, 1, dtype=torch.bool)
    found = scorer.score(plain_forward(model), model.config, ids, mask, turn, one, one, [["Bora"]] * 2)
    assert found.likelihood[:, 0].tolist() == pytest.approx(expected, abs=1e-4)

    answers = [["Bora"]] * 2
    reader = AnswerReader(
        plain_forward(model), scorer.suffixes(answers), scorer.suffixes(answers, [True] * 2), scorer.opens_thought
    )
    engine = KVCacheEngine(model, TOKENIZER, Sampler(model, sampling(TOKENIZER)), ())
    engine([Continuation(prompt, 1) for prompt in prompts], lambda turns: {}, reader=reader)
    assert [reader.answer_logps[row][0] for row in range(2)] == pytest.approx(expected, abs=1e-4)
