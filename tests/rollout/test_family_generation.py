"""KV-cache reuse behind attention windows and with states of fixed size: what is written, and what answers are read,
equal a reading anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from a2tgpo.signals.answer_likelihood.model_support import Layer, layers_of, needs_additive_mask, why_not_cached
from a2tgpo.signals.answer_likelihood.tested_families import TESTED
from tests.integrations.parts import states_in_cache
from tests.signals.answer_likelihood.families import families, tiny_model, word_tokenizer

STARTS = [list(range(5, 5 + n)) for n in (3, 30, 17, 17, 9)]
OBSERVATIONS = [[11, 12, 13], [7] * 20, [8, 9], [8, 9], [14, 15, 16, 17, 18]]
"""Two rows are alike: one reading serves both."""


def reusing(wanted: Callable[[Layer], Any]) -> Iterator[tuple[str, Any]]:
    """Tiny models of the families that reuse their cache and have a layer that is `wanted`."""
    for family in families():
        model = tiny_model(family)
        model.generation_config.eos_token_id = None
        if why_not_cached(model.config) is None and any(wanted(layer) for layer in layers_of(model.config)):
            if (obstacle := why_no_cache_reuse(model, Sampler(model, greedy()))) is None:
                yield family, model
            else:
                assert family not in TESTED, (family, obstacle)


def greedy() -> GenerationConfig:
    return GenerationConfig(do_sample=False, pad_token_id=0, eos_token_id=None)


def play(engine: Any, reader: AnswerReader | None = None) -> list[list[list[int]]]:
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
    for family, model in reusing(lambda layer: layer.window and not layer.recurrent):
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


@states_in_cache
def test_every_family_with_states_writes_what_it_does_anew() -> None:
    """All families of the installed transformers with linear attention, state-space models or convolutions whose gain
    is read from their states: greedy turns are those of a forward over all tokens for each. Rows differ in length, two
    are alike, and with three slots they wait for each other; so too where rows begin where others stand."""
    tokenizer, seen = word_tokenizer(), []
    for family, model in reusing(lambda layer: layer.recurrent):
        expected = [anew(model, row) for row in range(len(STARTS))]
        for n_slots, waiting_share in ((64, 0.0), (64, 1.0), (3, 0.0)):
            engine = KVCacheEngine(model, tokenizer, Sampler(model, greedy()), (), n_slots, waiting_share)
            assert play(engine) == expected, (family, n_slots, waiting_share)
        assert branch(engine) == expected[0][1], family
        seen.append(family)
    assert {"qwen3_5_text", "qwen3_next", "lfm2", "falcon_h1", "nemotron_h", "mamba2"} <= set(seen) and len(seen) >= 14


def branch(engine: KVCacheEngine) -> list[int]:
    """The turn of a row that begins, when row 0's first turn is done, from what row 0 has read and written."""
    written: dict[int, list[int]] = {}

    def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation]:
        first = not written
        written.update({row: turn.ids for row, turn in turns.items()})
        context = STARTS[0] + written[0] + OBSERVATIONS[0]
        return {0: Continuation([40, 41], 3), 1: Continuation(context, 8)} if first else {}

    engine([Continuation(STARTS[0], 6)], take_turns)
    return written[1]


@torch.no_grad()
def answer_logp(model: Any, prefix: list[int], suffix: Any) -> float:
    """Mean log-probability of the answer's tokens after `prefix` and the scaffold, in a row of its own."""
    ids = torch.tensor([prefix + list(suffix.ids)])
    logps = model(ids).logits[0, len(prefix) - 1 : -1].log_softmax(-1)
    taken = logps.gather(1, ids[0, len(prefix) :, None])[:, 0]
    return float(taken[torch.tensor(suffix.is_answer)].mean())
