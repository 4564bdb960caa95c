"""Turns from the vLLM engine that TRL set up: the settings of each call, log-probabilities, and TRL's own interface."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration

from a2tgpo.integrations.trl import vllm_engine
from a2tgpo.integrations.trl.vllm_engine import N_LIKELIEST, TRLTokenEngine
from a2tgpo.rollout.engine import Continuation, Turn
from a2tgpo.rollout.lockstep_engine import LockstepEngine, TurnSampling
from a2tgpo.rollout.protocol import STOP_STRINGS
from tests.rollout.trl_vllm import VLLM, random_policy


@pytest.fixture
def vllm() -> VLLM:
    return random_policy()


def test_turns_stop_inside_vllm_and_the_callers_settings_return(vllm: VLLM) -> None:
    """Each call carries the stop strings, keeps the caller's own options and asks for no more tokens than the largest
    budget; afterwards, also after an error, TRL's settings are what they were."""
    engine = LockstepEngine(TRLTokenEngine(vllm), STOP_STRINGS)
    engine([Continuation([5], 4), Continuation([6], 9)], lambda turns: {})
    assert vllm.calls == [
        {
            **{"n": 2, "max_tokens": 9, "seed": 3, "logprobs": 0},
            **{"stop": list(STOP_STRINGS), "include_stop_str_in_output": True},
        }
    ]
    vllm.generate = lambda **_: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        engine([Continuation([5], 4)], lambda turns: {})
    assert vllm.generation_kwargs == {"seed": 3} and vllm.max_completion_length == 999


@pytest.mark.parametrize("n_entropies", [0, 2])
def test_turns_carry_the_log_probabilities_of_what_was_sampled(vllm: VLLM, n_entropies: int) -> None:
    """Of each token of a turn its own, read from one reported or from the likeliest, and none beyond its budget; what
    vLLM could not tell is NaN."""
    taken: dict[int, Turn] = {}
    start = [Continuation([5], 4), Continuation([6, 7], 9)]
    LockstepEngine(TRLTokenEngine(vllm), STOP_STRINGS)(start, lambda turns: taken.update(turns) or {}, n_entropies)
    for row, turn in taken.items():
        context = start[row].ids + turn.ids
        with torch.no_grad():
            logits = vllm.model(torch.tensor([context])).logits[0, len(start[row].ids) - 1 : -1]
        likeliest = logits.topk(vllm.n_possible)
        expected = likeliest.values.log_softmax(-1)[likeliest.indices == torch.tensor(turn.ids)[:, None]]
        assert turn.logps == pytest.approx(expected.tolist(), abs=1e-5)
        assert len(turn.logps) == len(turn.ids) == start[row].budget
    assert math.isnan(vllm_engine._of_sampled([3], [[-0.1, None]], [[8, 3]])[0])


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_trls_engine_is_what_the_stand_in_says(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL's own class, its vLLM replaced: in both modes each call carries our stops, length and number of
    log-probabilities, and comes back as turns with the sampled token's log-probability and the entropy asked for."""
    called: list[Any] = []

    def colocated(prompts: Any, sampling_params: Any, use_tqdm: bool) -> list[Any]:
        called.append(vars(sampling_params))
        likeliest = {7: SimpleNamespace(logprob=-0.1, rank=1), 8: SimpleNamespace(logprob=-2.4, rank=2)}
        turn = SimpleNamespace(token_ids=[8], logprobs=[likeliest])
        return [SimpleNamespace(prompt_token_ids=p["prompt_token_ids"], outputs=[turn]) for p in prompts]

    def served(prompts: Any, features: Any, generation_kwargs: Any, **settings: Any) -> dict[str, Any]:
        called.append(settings | generation_kwargs)
        n = len(prompts)
        reply = {"completion_ids": [[8]] * n, "logprobs": [[[-0.1, -2.4]]] * n, "logprob_token_ids": [[[7, 8]]] * n}
        return {"prompt_ids": prompts} | reply

    monkeypatch.setattr(vllm_generation, "SamplingParams", SimpleNamespace, raising=False)
    generation = VLLMGeneration.__new__(VLLMGeneration)
    settings = dict(temperature=1.0, top_p=1.0, top_k=-1, min_p=None, repetition_penalty=1.0, logprobs=0)
    shared = dict(
        accelerator=Accelerator(),
        model=torch.nn.Linear(1, 1),
        structured_outputs_regex=None,
        generation_kwargs={"seed": 3},
    )
    engine = dict(llm=SimpleNamespace(generate=colocated), vllm_client=SimpleNamespace(generate=served))
    vars(generation).update(
        **settings, **shared, **engine, mode=mode, max_completion_length=99, enable_sleep_mode=False
    )
    generation.tensor_parallel_size = 1
    turns = TRLTokenEngine(generation).generate([[5], [6, 7]], TurnSampling(4, ("</a>",), n_entropies=2))
    entropy = 0.1 * math.exp(-0.1) + 2.4 * math.exp(-2.4)
    assert [turn.ids for turn in turns] == [[8], [8]]
    for turn in turns:
        assert turn.logps == [-2.4] and turn.entropies == pytest.approx([entropy])
    sent = called[0]
    assert sent["stop"] == ["</a>"] and sent["include_stop_str_in_output"] and sent["seed"] == 3
    assert sent["max_tokens"] == 4 and sent["logprobs"] == N_LIKELIEST and sent["n"] == 1
    assert generation.generation_kwargs == {"seed": 3} and generation.max_completion_length == 99
