"""KV-cache reuse behind attention windows: what is written, and what answers are read, equal a reading anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from a2tgpo.rollout.answer_reader import AnswerReader
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, Turn
from a2tgpo.rollout.hf_generate_engine import why_no_cache_reuse
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.signals.answer_likelihood import AnswerScaffold, plain_forward
from a2tgpo.signals.answer_likelihood.model_support import layers_of, needs_additive_mask, why_not_cached
from tests.signals.answer_likelihood.families import families, tiny_model, word_tokenizer

STARTS = [list(range(5, 5 + n)) for n in (3, 30, 17, 9)]
OBSERVATIONS = [[11, 12, 13], [7] * 20, [8, 9], [14, 15, 16, 17, 18]]


def windowed() -> list[tuple[str, Any]]:
    """Tiny models of the families with attention windows that reuse their cache."""
    models = [(family, tiny_model(family)) for family in families()]
    for _, model in models:
        model.generation_config.eos_token_id = None
    return [
        (family, model)
        for family, model in models
        if why_not_cached(model.config) is None
        and any(layer.window for layer in layers_of(model.config))
        and why_no_cache_reuse(model, Sampler(model, greedy())) is None
    ]


def greedy() -> GenerationConfig:
    return GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)


def play(engine: Any, reader: AnswerReader) -> list[list[list[int]]]:
    """Two turns of each row, with an observation between."""
    written: list[list[list[int]]] = [[] for _ in STARTS]

    def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation]:
        for row, turn in turns.items():
            written[row].append(turn.ids)
        return {row: Continuation(OBSERVATIONS[row], 8) for row in turns if len(written[row]) == 1}

    engine([Continuation(ids, 6 + row) for row, ids in enumerate(STARTS)], take_turns, reader=reader)
    return written


@torch.no_grad()
def anew(model: Any, row: int) -> list[list[int]]:
    """The same turns, each token the likeliest behind all tokens before it."""
    context, turns = list(STARTS[row]), []
    for budget, observation in ((6 + row, OBSERVATIONS[row]), (8, [])):
        start = len(context)
        for _ in range(budget):
            context.append(int(model(torch.tensor([context])).logits[0, -1].argmax()))
        turns.append(context[start:])
        context += observation
    return turns


def test_every_windowed_family_writes_and_reads_what_it_does_anew() -> None:
    """All families of the installed transformers with attention windows (sliding, in blocks, with sinks) that reuse
    their cache: greedy turns of rows longer and shorter than the window are those of a forward over all tokens for
    each, and answers read from the cache of generation are as likely as behind each row by itself, to 1e-4."""
    tokenizer = word_tokenizer()
    suffix = AnswerScaffold("it is ( {answer} )").encode(tokenizer, "new york")
    seen = []
    for family, model in windowed():
        reader = AnswerReader(
            plain_forward(model),
            [[suffix]] * len(STARTS),
            additive_mask=needs_additive_mask(model.config),
            layers=layers_of(model.config),
        )
        written = play(KVCacheEngine(model, tokenizer, Sampler(model, greedy()), ()), reader)
        assert written == [anew(model, row) for row in range(len(STARTS))], family
        for row, (start, turns) in enumerate(zip(STARTS, written, strict=True)):
            for prefix, found in zip(
                (start, start + turns[0] + OBSERVATIONS[row]), reader.answer_logps[row], strict=True
            ):
                assert found == pytest.approx(answer_logp(model, prefix, suffix), abs=1e-4), (family, row)
        seen.append(family)
    assert {"gemma3_text", "gpt_oss", "mistral", "olmo3"} <= set(seen) and len(seen) >= 10


@torch.no_grad()
def answer_logp(model: Any, prefix: list[int], suffix: Any) -> float:
    """Mean log-probability of the answer's tokens after `prefix` and the scaffold, in a row of its own."""
    ids = torch.tensor([prefix + list(suffix.ids)])
    logps = model(ids).logits[0, len(prefix) - 1 : -1].log_softmax(-1)
    taken = logps.gather(1, ids[0, len(prefix) :, None])[:, 0]
    return float(taken[torch.tensor(suffix.is_answer)].mean())
