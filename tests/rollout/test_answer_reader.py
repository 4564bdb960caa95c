"""Answers read from the keys of generation are those that a pass over the finished rollouts finds."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from a2tgpo.rollout import answer_reader
from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.signals.answer_likelihood import AnswerSuffix, plain_forward
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.test_kv_cache_engine import ARCHITECTURES, Conversations, random_model, sampling


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte."""
    return qwen_tokenizer()


@torch.no_grad()
def defined(model: Any, prefix: list[int], suffix: AnswerSuffix, temperature: float) -> float:
    """Mean log-probability of the answer's tokens after `prefix`, from one plain forward of the whole."""
    ids = torch.tensor([prefix + list(suffix.ids)])
    logps = (model(ids).logits[0].float() / temperature).log_softmax(-1)
    scored = [len(prefix) + i for i, is_answer in enumerate(suffix.is_answer) if is_answer]
    return sum(logps[at - 1, ids[0, at]].item() for at in scored) / len(scored)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@pytest.mark.parametrize("n_slots", [3, 64])
def test_every_boundary_of_every_row_is_read(
    tokenizer: Any, name: str, attention: str, n_slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one to four turns, two aliases of which the second is the longer: what the definition gives, whichever
    rows end together, wait for a slot, or share a forward; and the turns are those written without a reader."""
    monkeypatch.setattr(answer_reader, "TOKENS_AT_ONCE", 90)
    model = random_model(name, attention)
    suffixes = [
        [
            AnswerSuffix((5, 7 + row, 9), (False, True, True)),
            AnswerSuffix((11, 3, 4, 6 + row), (False, False, True, True)),
        ]
        for row in range(9)
    ]
    reader = AnswerReader(plain_forward(model, 0.7), suffixes, additive_mask=attention == "eager")
    played, unread = Conversations(9), Conversations(9)
    backend = KVCacheEngine(model, tokenizer, Sampler(model, sampling(tokenizer)), (), n_slots)
    turns = played.play(partial(backend, reader=reader))

    assert turns == unread.play(KVCacheEngine(model, tokenizer, Sampler(model, sampling(tokenizer)), (), n_slots))
    assert sorted(reader.answer_logps) == list(range(9))
    for row, found in reader.answer_logps.items():
        expected = [max(defined(model, prefix, p, 0.7) for p in suffixes[row]) for prefix in played.prefixes(row)]
        assert found == pytest.approx(expected, abs=1e-4)


def test_a_second_call_starts_from_nothing(tokenizer: Any) -> None:
    """The backend keeps the memory of its keys, not the keys: other rows in the same slots are as on a new backend."""
    model = random_model("qwen3")
    backend = KVCacheEngine(model, tokenizer, Sampler(model, sampling(tokenizer)), ())
    long, short = Conversations(6, seed=3), Conversations(4, seed=4)
    long.play(backend)
    fresh = KVCacheEngine(model, tokenizer, Sampler(model, sampling(tokenizer)), ())
    assert short.play(backend) == Conversations(4, seed=4).play(fresh)
