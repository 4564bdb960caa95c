"""The vLLM backend on a stand-in for TRL's engine, whose interface the contract tests compare with TRL's own."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from transformers import GenerationConfig
from trl.generation.vllm_generation import VLLMGeneration

from a2tgpo.rollout import vllm
from a2tgpo.rollout.backend import Continuation, Turn
from a2tgpo.rollout.kept_keys import KeptKeysBackend
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.rollout.sampler import Sampler
from a2tgpo.rollout.vllm import VLLMBackend
from tests.integrations.parts import qwen_tokenizer, tiny_llama
from tests.rollout.engine import Engine
from tests.rollout.test_kept_keys import Conversations


@pytest.fixture
def engine() -> Engine:
    tokenizer = qwen_tokenizer()
    model = tiny_llama(tokenizer, seed=5)
    model.generation_config.eos_token_id = None
    config = GenerationConfig(do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=None)
    return Engine(model, config)


def test_conversations_equal_those_of_the_transformers_backend(engine: Engine) -> None:
    """The same environment gives the same greedy conversations, budgets of single rows included."""
    tokenizer = qwen_tokenizer()
    kept = KeptKeysBackend(engine.model, tokenizer, Sampler(engine.model, engine.config), STOP_STRINGS)
    assert Conversations(7).play(VLLMBackend(engine, STOP_STRINGS)) == Conversations(7).play(kept)


def test_turns_stop_inside_vllm_and_the_callers_settings_return(engine: Engine) -> None:
    """Each call carries the stop strings, keeps the caller's own options and asks for no more tokens than the largest
    budget; afterwards, also after an error, TRL's settings are what they were."""
    backend = VLLMBackend(engine, STOP_STRINGS)
    backend([Continuation([5], 4), Continuation([6], 9)], lambda turns: {})
    assert engine.calls == [
        {
            **{"n": 2, "max_tokens": 9, "seed": 3, "logprobs": 0},
            **{"stop": list(STOP_STRINGS), "include_stop_str_in_output": True},
        }
    ]
    engine.generate = lambda **_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        backend([Continuation([5], 4)], lambda turns: {})
    assert engine.generation_kwargs == {"seed": 3} and engine.max_completion_length == 999


@pytest.mark.parametrize("n_entropies", [0, 2])
def test_turns_carry_the_log_probabilities_of_what_was_sampled(engine: Engine, n_entropies: int) -> None:
    """Of each token of a turn its own, read from one reported or from the likeliest, and none beyond its budget; what
    vLLM could not tell is NaN."""
    taken: dict[int, Turn] = {}
    start = [Continuation([5], 4), Continuation([6, 7], 9)]
    VLLMBackend(engine, STOP_STRINGS)(start, lambda turns: taken.update(turns) or {}, n_entropies)
    for row, turn in taken.items():
        context = start[row].ids + turn.ids
        with torch.no_grad():
            logits = engine.model(torch.tensor([context])).logits[0, len(start[row].ids) - 1 : -1]
        likeliest = logits.topk(engine.n_possible)
        expected = likeliest.values.log_softmax(-1)[likeliest.indices == torch.tensor(turn.ids)[:, None]]
        assert turn.logps == pytest.approx(expected.tolist(), abs=1e-5)
        assert len(turn.logps) == len(turn.ids) == start[row].budget
    assert math.isnan(vllm._of_sampled([3], [[-0.1, None]], [[8, 3]])[0])


def test_a_process_without_open_rows_keeps_up_with_the_others(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process has three prompts and a round more to go, this one sends three as well, in that round too,
    and takes only its own turns."""
    # What gather_object would bring: open rows, then budgets, round by round.
    others = iter([[3], [7], [1], [2], [0]])
    monkeypatch.setattr(vllm, "gather_object", lambda mine: mine + next(others))
    taken: list[dict[int, Turn]] = []
    VLLMBackend(engine, STOP_STRINGS)([Continuation([5], 4)], lambda turns: taken.append(turns) or {})
    assert [(call["n"], call["max_tokens"]) for call in engine.calls] == [(3, 7), (1, 2)]
    assert [list(turns) for turns in taken] == [[0]] and len(taken[0][0].ids) == 4


def test_trls_engine_is_what_the_stand_in_says() -> None:
    """`generate` takes these arguments and returns prompts, completions, log-probabilities and more; stops, length and
    the number of log-probabilities are read from the attributes at each call, in both modes."""
    assert list(inspect.signature(VLLMGeneration.generate).parameters) == [
        *("self", "prompts", "images", "num_generations", "profiler")
    ]
    source = inspect.getsource(VLLMGeneration.generate)
    assert "max_completion_length = self.max_completion_length" in source
    assert source.count('"logprobs": self.logprobs') == 2
    assert source.count('"max_tokens": max_completion_length') == 2
    assert '"generation_kwargs": self.generation_kwargs' in source
    assert "generation_kwargs.update(self.generation_kwargs)" in source
    assert "return prompt_ids, completion_ids, logprobs, logprob_token_ids" in source
