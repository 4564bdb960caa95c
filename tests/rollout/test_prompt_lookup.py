"""Guesses from the prompt: they spare forwards and change nothing that is drawn."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from a2tgpo.rollout import conversation
from a2tgpo.rollout.conversation import spare_tokens
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.prompt_lookup import LONGEST_MATCH, PromptLookup
from tests.integrations.parts import qwen_tokenizer

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


@given(TOKENS, st.lists(TOKENS, max_size=4), st.integers(0, 6))
def test_a_guess_is_what_followed_the_longest_match_last(start: list[int], more: list[list[int]], n_most: int) -> None:
    """However a context grew, the guess equals that of a search through all of it from its end."""
    lookup, context = PromptLookup(), list(start)
    lookup.guess(context, 3)
    for part in more:
        context = context + part
        lookup.guess(context, 1)

    def found() -> list[int]:
        for n in range(min(LONGEST_MATCH, len(context) - 1), 0, -1):
            for end in range(len(context) - 1, n - 1, -1):
                if context[end - n : end] == context[-n:]:
                    return context[end : end + n_most]
        return []

    assert lookup.guess(context, n_most) == found()


def small_llama(vocabulary: int, std: float) -> LlamaForCausalLM:
    torch.manual_seed(3)
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **shape, bos_token_id=None, eos_token_id=None)).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=std)
    return model


def write(model: Any, starts: list[Continuation], **options: Any) -> tuple[list[list[int]], int]:
    """The turn of each row by the KV-cache engine, and the forwards that it took."""
    turns: dict[int, Turn] = {}
    forwards = 0

    def count(*_: Any) -> None:
        nonlocal forwards
        forwards += 1

    config = GenerationConfig(pad_token_id=0, eos_token_id=None, **options)
    hook = model.register_forward_pre_hook(count)
    KVCacheEngine(model, qwen_tokenizer(), Sampler(model, config), ())(starts, lambda done: turns.update(done) or {})
    hook.remove()
    return [turns[row].ids for row in range(len(starts))], forwards


def test_right_guesses_spare_forwards_and_wrong_ones_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random policy's greedy text soon goes in circles, which guesses foresee; budgets cut some of them. The tokens
    are those of `generate`, in a fifth fewer forwards."""
    model = small_llama(60, std=0.4)
    starts = [Continuation([5, 9, row, 5, 9], 40 + row) for row in range(10, 16)]
    config = GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)
    anew: dict[int, Turn] = {}
    HFGenerateEngine(model, qwen_tokenizer(), config, ("</answer>",))(starts, lambda done: anew.update(done) or {})
    guessed, few = write(model, starts, do_sample=False)
    monkeypatch.setattr(conversation, "MOST_GUESSES", 0)
    alone, many = write(model, starts, do_sample=False)
    assert guessed == alone == [anew[row].ids for row in range(len(starts))]
    assert few < 0.8 * many


def test_what_is_drawn_has_the_policys_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of three tokens out of four, behind a prompt that repeats itself so that all is guessed, some right and
    some wrong: each of the 64 turns comes as often as the product of its tokens' probabilities says."""
    model, prompt, n_rows = small_llama(4, std=0.7), [1, 2, 3, 1, 2, 3, 1, 2], 6000
    monkeypatch.setattr(conversation, "spare_tokens", lambda model: 10**6)
    torch.manual_seed(0)
    turns, _ = write(model, [Continuation(prompt, 3)] * n_rows, do_sample=True, top_k=0)
    possible = list(product(range(4), repeat=3))
    with torch.no_grad():
        logits = model(torch.tensor([prompt + list(turn) for turn in possible])).logits[:, len(prompt) - 1 : -1]
    probability = logits.log_softmax(-1).gather(2, torch.tensor(possible)[:, :, None]).sum((1, 2)).double().exp()
    counts = [turns.count(list(turn)) for turn in possible]
    assert chisquare(counts, (probability / probability.sum() * n_rows).tolist()).pvalue > 1e-3


def test_no_token_of_probability_0_is_drawn() -> None:
    """Top-k leaves two tokens of eight: only they come, as often as they are likely."""
    model = small_llama(8, std=0.4)
    sampler = Sampler(model, GenerationConfig(do_sample=True, top_k=2, pad_token_id=0, eos_token_id=None))
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, 0.5, -2.0, 3.0, 2.0, 0.0, 1.0]).expand(8000, 8)
    drawn = sampler(logits, [[1]] * 8000)
    likely = torch.tensor([3.0, 2.0]).double().softmax(0)
    assert set(drawn) == {4, 5}
    assert chisquare([drawn.count(4), drawn.count(5)], (likely * 8000).tolist()).pvalue > 1e-3


def test_guesses_are_as_many_as_a_forward_has_room_for() -> None:
    """More layers make a forward dearer, more parameters a token: on the CPU a wide model guesses less."""
    narrow, wide = (
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=60, hidden_size=size, intermediate_size=size, num_hidden_layers=2, num_attention_heads=2
            )
        )
        for size in (64, 512)
    )
    assert 5 <= spare_tokens(wide) < spare_tokens(narrow)
