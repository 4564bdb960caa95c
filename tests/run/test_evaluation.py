"""How an evaluation samples: as the recipe says the policy is trained, or greedily."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.run.evaluation import sampling_config
from a2tgpo.run.recipe_file import load_recipe
from tests.integrations.parts import scripted_trainer
from tests.run.parts import write_recipe

SAMPLING = {"temperature": 0.7, "top_p": 0.8, "top_k": 5, "min_p": 0.1}
SETTINGS: dict[str, Any] = SAMPLING | {"repetition_penalty": 1.3, "generation_kwargs": {"typical_p": 0.9}}


def both_ways(folder: Path) -> tuple[SearchAgent, GenerationConfig, GenerationConfig]:
    """The agent, and how it samples and answers greedily in a recipe with `SETTINGS`."""
    agent = SearchAgent(build_tokenizer(), lambda queries: [[] for _ in queries], RolloutLimits())
    config = load_recipe(str(write_recipe(folder / "recipe.yaml", folder, **SETTINGS)))
    return agent, sampling_config(agent, config, "sampled"), sampling_config(agent, config, "greedy")


def test_the_recipe_s_sampling_arrives(tmp_path: Path) -> None:
    """Every sampling parameter of the recipe, those of `generation_kwargs` among them, is the evaluation's, and the
    trainer that is given the same samples its rollouts with the same."""
    agent, sampled, _ = both_ways(tmp_path)
    assert sampled.do_sample is True
    wanted = SAMPLING | {"repetition_penalty": 1.3, "typical_p": 0.9}
    assert {name: getattr(sampled, name) for name in wanted} == wanted
    assert sampled.pad_token_id == agent.tokenizer.pad_token_id
    trained = scripted_trainer(tmp_path, [["x"]], **SETTINGS).generation_config
    assert trained.do_sample is True
    assert {name: getattr(trained, name) for name in wanted} == wanted


def test_greedy_takes_the_likeliest_token(tmp_path: Path) -> None:
    """Greedy answers keep the repetition penalty, which changes what is likeliest, and no parameter of sampling."""
    agent, _, greedy = both_ways(tmp_path)
    assert greedy.do_sample is False and greedy.repetition_penalty == 1.3
    assert greedy.pad_token_id == agent.tokenizer.pad_token_id
    unset = GenerationConfig()
    assert all(getattr(greedy, name) == getattr(unset, name) for name in (*SAMPLING, "typical_p"))
