"""Entropies: of the distribution a token was drawn from, by hand and recomputed from the model, from every backend."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from a2tgpo.integrations.trl.vllm_engine import N_LIKELIEST, TRLTokenEngine
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, GenerationEngine, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.lockstep_engine import LockstepEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.test_kv_cache_engine import random_model, sampling
from tests.rollout.trl_vllm import VLLM

TOKENIZER = qwen_tokenizer()
PROMPTS, BUDGETS, RESULT = [[40, 41, 42], list(range(60, 90)), [7]], [6, 2, 9], [11, 12]


@pytest.mark.parametrize(
    ("options", "entropy"),
    [
        ({}, 1.5 * math.log(2)),
        ({"top_k": 1}, 0.0),
        ({"top_k": 2, "suppress_tokens": [0]}, math.log(2)),
        ({"temperature": 0.5}, -2 / 3 * math.log(2 / 3) - 2 * (1 / 6) * math.log(1 / 6)),
        ({"do_sample": False}, 0.0),
    ],
)
def test_the_entropy_by_hand(options: dict[str, Any], entropy: float) -> None:
    """Of (1/2, 1/4, 1/4) and 0 elsewhere, after temperature, top-k and bans: what is drawn from, not what the model
    said; a greedy choice has none."""
    model = random_model("qwen3")
    config = sampling(TOKENIZER, **({"do_sample": True, "top_k": 0, "suppress_tokens": None} | options))
    sampler = Sampler(model, config)
    logits = torch.full((2, 265), -math.inf)
    logits[:, :3] = torch.tensor([0.5, 0.25, 0.25]).log()
    contexts = [[9], [8, 9]]
    torch.manual_seed(0)
    tokens, entropies = sampler.with_entropies(logits, contexts)
    assert entropies == pytest.approx([entropy] * 2, abs=1e-6) == sampler.entropies(logits, contexts)
    torch.manual_seed(0)
    assert sampler(logits, contexts) == tokens


def conversations(backend: GenerationEngine, n_entropies: int) -> list[list[Turn]]:
    """Two turns of each row."""
    turns: list[list[Turn]] = [[] for _ in PROMPTS]

    def take_turns(finished: dict[int, Turn]) -> dict[int, Continuation]:
        for row, turn in finished.items():
            turns[row].append(turn)
        return {row: Continuation(RESULT, BUDGETS[row]) for row in finished if len(turns[row]) < 2}

    starts = [Continuation(ids, budget) for ids, budget in zip(PROMPTS, BUDGETS, strict=True)]
    backend(starts, take_turns, n_entropies)
    return turns


def recomputed(turns: list[list[Turn]], n_entropies: int, temperature: float, n_likeliest: int) -> list[list[float]]:
    """The entropies of each turn, from one reading of each row, without cache, sampler or batch."""
    model, entropies = random_model("qwen3"), []
    for prompt, (first, second) in zip(PROMPTS, turns, strict=True):
        context = list(prompt)
        for turn in (first, second):
            with torch.no_grad():
                logits = model(torch.tensor([context + turn.ids])).logits[0, len(context) - 1 : -1].double()
            logits = (logits / temperature).topk(n_likeliest).values
            logp = logits - (logits.logsumexp(-1, keepdim=True))
            entropies.append((-(logp.exp() * logp).sum(-1))[:n_entropies].tolist())
            context += turn.ids + RESULT
    return entropies


@pytest.mark.parametrize("kind", ["cache reuse", "generate"])
@pytest.mark.parametrize("n_entropies", [0, 4])
def test_entropies_are_those_of_the_model(kind: str, n_entropies: int) -> None:
    """Under temperature 0.7 and top-k 12, of the first four tokens of each turn, or of all where it is shorter; none
    where none are asked for."""
    model = random_model("qwen3")
    config = sampling(TOKENIZER, do_sample=True, temperature=0.7, top_k=12, suppress_tokens=None)
    torch.manual_seed(0)
    backend: GenerationEngine = (
        KVCacheEngine(model, TOKENIZER, Sampler(model, config), STOP_STRINGS)
        if kind == "cache reuse"
        else HFGenerateEngine(model, TOKENIZER, config, STOP_STRINGS)
    )
    turns = conversations(backend, n_entropies)
    ours = [turn.entropies for row in turns for turn in row]
    for entropies, expected in zip(ours, recomputed(turns, n_entropies, 0.7, 12), strict=True):
        assert entropies == pytest.approx(expected, abs=1e-4)
    assert [len(entropies) for entropies in ours] == [min(n_entropies, budget) for budget in (6, 6, 2, 2, 9, 9)]


def test_vllm_is_asked_for_the_ten_likeliest() -> None:
    """Each turn's entropies are −Σ p·log p over vLLM's ten likeliest tokens, where nothing else can be drawn the whole;
    asked for at that call only, and missing probabilities count as 0."""
    model = random_model("qwen3")
    engine = VLLM(model, sampling(TOKENIZER), n_possible=N_LIKELIEST)
    turns = conversations(LockstepEngine(TRLTokenEngine(engine), STOP_STRINGS), 4)
    for turn, expected in zip(
        (turn for row in turns for turn in row), recomputed(turns, 4, 1.0, N_LIKELIEST), strict=True
    ):
        assert turn.entropies == pytest.approx(expected, abs=1e-4)
    assert {call["logprobs"] for call in engine.calls} == {N_LIKELIEST} and engine.logprobs == 0
    assert all(
        not turn.entropies
        for row in conversations(LockstepEngine(TRLTokenEngine(engine), STOP_STRINGS), 0)
        for turn in row
    )
    assert engine.calls[-1]["logprobs"] == 0
