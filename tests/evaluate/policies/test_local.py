"""Checkpoints: the same rollouts as in training, in transformers and behind vLLM's interface."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from a2tgpo.environments.search import SearchTool
from a2tgpo.errors import MissingExtra, RecipeError, ToolError
from a2tgpo.evaluate.benchmark_run import open_policy
from a2tgpo.evaluate.eval_config import EvalConfig
from a2tgpo.evaluate.outcome import Asked, Outcome
from a2tgpo.evaluate.questions import evaluate_questions
from a2tgpo.pretrained import EMBEDDED, resolve
from a2tgpo.retrieval.source import open_retriever
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.hf_generate_engine import transformers_engine
from a2tgpo.rollout.protocol import STOP_STRINGS
from tests.evaluate.policies.parts import asked, outcomes_of
from tests.evaluate.world import WorldFiles, save_searching_policy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    """Ten questions."""
    return WorldFiles.write(tmp_path_factory.mktemp("world"), 10)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy that searches."""
    return str(save_searching_policy(tmp_path_factory.mktemp("policy")))


def config(world: WorldFiles, model: str, **changes: Any) -> EvalConfig:
    """`model` on the generated world, four questions at a time."""
    values: dict[str, Any] = dict(
        model=model,
        benchmarks=f"hops={world.questions}",
        retriever=str(world.index),
        output_dir="unused",
        system_prompt="",
        max_searches=3,
        max_turn_tokens=64,
        max_completion_length=512,
        passage_tokens=48,
        concurrency=4,
    )
    return EvalConfig(**values | changes)


def search(world: WorldFiles) -> SearchTool:
    """Over the world's index."""
    return SearchTool(open_retriever(str(world.index)))


def answers(world: WorldFiles, settings: EvalConfig) -> list[Outcome]:
    """What the policy of `settings` answers."""
    questions = [Asked(row, sample) for row in world.rows for sample in range(settings.samples)]
    return outcomes_of(open_policy(settings, search(world)), questions)


@pytest.mark.parametrize("name", ["embedded", "trained"])
def test_a_checkpoint_answers_as_in_a_recipes_evaluation(world: WorldFiles, trained: str, name: str) -> None:
    """Question by question the outcomes are those of `evaluate_questions` with the same batches; the embedded policy
    writes nothing but prose yet, the trained one searches and is right at times."""
    model_name = trained if name == "trained" else EMBEDDED
    settings = config(world, model_name)
    tokenizer = AutoTokenizer.from_pretrained(resolve(model_name), padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(resolve(model_name), dtype="float32")
    greedy = GenerationConfig(do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    backend = transformers_engine(model, tokenizer, greedy, STOP_STRINGS)
    agent = SearchAgent(tokenizer, search(world), settings.limits)
    with torch.no_grad():
        expected = evaluate_questions(agent, backend, world.rows, batch_size=4)
    assert answers(world, settings) == expected
    if name == "trained":
        assert sum(outcome.searches for outcome in expected) > 0
        assert any(outcome.correct for outcome in expected)


def test_samples_are_drawn_anew_and_repeat_with_the_seed(world: WorldFiles, trained: str) -> None:
    """Samples of a question are numbered and not all alike; a second run with the seed repeats them, another seed
    does not."""
    sampled = dict(samples=3, temperature=1.0)
    first, again, other = (answers(world, config(world, trained, seed=seed, **sampled)) for seed in (0, 0, 1))
    assert [outcome.sample for outcome in first] == [0, 1, 2] * len(world.rows)
    assert len({outcome.text for outcome in first}) > len(world.rows)
    assert first == again != other


def test_a_tool_that_fails_a_whole_batch_is_an_outcome_of_each_question() -> None:
    """The agent loop raises where the tool failed every rollout; in an evaluation the run decides, so that questions of
    other batches are still asked."""
    settings = EvalConfig(
        **{"model": EMBEDDED, "benchmarks": "nq", "retriever": "x", "output_dir": "y", "system_prompt": ""}
    )

    def broken(queries: list[str]) -> Any:
        raise ToolError("index on fire")

    def searching(starts: Any, take_turns: Any, n_entropies: int = 0) -> None:
        from a2tgpo.rollout.engine import Turn

        ids = policy.agent.encode_turn("<think> a </think> <search> kelo </search>")
        take_turns({row: Turn(ids) for row in range(len(starts))})

    policy: Any = open_policy(settings, broken)
    policy = replace(policy, engine=searching, batch_size=2)
    outcomes = outcomes_of(policy, asked(3, samples=2))
    assert [(o.termination, o.sample) for o in outcomes] == [("tool_failed", 0), ("tool_failed", 1)] * 3
    assert "index on fire" in outcomes[0].reason


def test_a_model_that_cannot_be_loaded_says_so(world: WorldFiles, tmp_path: Path) -> None:
    """In one sentence that names it."""
    with pytest.raises(RecipeError, match="cannot be loaded"):
        open_policy(config(world, str(tmp_path)), search(world))


# --- vLLM ------------------------------------------------------------------------------------------------------------


@dataclass
class SamplingParams:
    """Those of vLLM's that the engine is given; any other is an error, as there."""

    max_tokens: int
    temperature: float
    stop: list[str]
    include_stop_str_in_output: bool


class LLM:
    """A stand-in for `vllm.LLM`: the arguments and results that the policy relies on, with transformers behind."""

    made: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        type(self).made = options
        self.tokenizer = AutoTokenizer.from_pretrained(options["model"], padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(options["model"], dtype="float32")

    def generate(self, prompts: list[dict[str, list[int]]], params: SamplingParams, *, use_tqdm: bool) -> list[Any]:
        assert params.temperature == 0 and params.include_stop_str_in_output and not use_tqdm
        written = [self._write(prompt["prompt_token_ids"], params) for prompt in prompts]
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids))]) for ids in written]

    @torch.no_grad()
    def _write(self, ids: list[int], params: SamplingParams) -> list[int]:
        options = dict(do_sample=False, max_new_tokens=params.max_tokens, stop_strings=params.stop)
        output = self.model.generate(torch.tensor([ids]), tokenizer=self.tokenizer, **options)
        return output[0, len(ids) :].tolist()


def test_vllm_answers_as_transformers_do(world: WorldFiles, trained: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind vLLM's offline interface, here a stand-in for it, the outcomes are those of the transformers policy; the
    engine caches prefixes and holds the longest context that the budgets allow."""
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    assert answers(world, config(world, trained, engine="vllm")) == answers(world, config(world, trained))
    assert LLM.made == {
        "model": trained,
        "max_model_len": 1024 + 512,
        "enable_prefix_caching": True,
        "seed": 0,
    }


def test_without_vllm_the_extra_is_named(world: WorldFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing library is the user's to install."""
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match=r"a2tgpo\[vllm\]"):
        open_policy(config(world, EMBEDDED, engine="vllm"), search(world))
