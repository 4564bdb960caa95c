"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.environments.search import SearchTool
from a2tgpo.evaluate.benchmark_run import _open_search
from a2tgpo.evaluate.eval_config import EvalConfig
from a2tgpo.retrieval.client import HTTPRetriever
from a2tgpo.rollout.agent import RolloutLimits
from a2tgpo.rollout.protocol import INSTRUCTION
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.task import open_task
from tests.run.parts import write_recipe

GIVEN = {"model": "m", "benchmarks": "nq", "retriever": "index", "output_dir": "out"}


def test_defaults_are_those_of_the_agent_loop() -> None:
    """Budgets that nobody gives are the rollout's own defaults, as the paper's six searches."""
    assert EvalConfig(**GIVEN).limits == RolloutLimits()


def test_settings_are_what_answers_depend_on() -> None:
    """Every field but where the answers go, how fast, how patiently, and under which key."""
    settings = EvalConfig(**GIVEN).settings
    left_out = {flag.name for flag in fields(EvalConfig)} - set(settings)
    assert left_out == {
        *("output_dir", "api_key_env", "concurrency"),
        *("max_prompt_tokens", "timeout_s", "search_timeout_s", "search_cache"),
    }


def test_patience_and_cache_reach_what_searches(tmp_path: Path) -> None:
    """The seconds before a search counts as failed, of an evaluation or a recipe, are the tool's and the client's; the
    folder of the cache is the client's."""
    address, cache = "http://127.0.0.1:9", str(tmp_path / "cache")
    evaluation = _open_search(
        EvalConfig(**GIVEN | {"retriever": address, "search_timeout_s": 7.0, "search_cache": cache})
    )
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "where?", "answer": ["here"]}\n')
    asked: dict[str, Any] = {"questions": [str(questions)], "eval_questions": [str(questions)], "retriever": address}
    asked |= {"warm_start_steps": 0, "search_timeout_s": 7.0, "search_cache": cache}
    recipe = write_recipe(tmp_path / "recipe.yaml", tmp_path / "policy", **asked)
    training = open_task(load_recipe(str(recipe)), RunDirectory(tmp_path / "run")).search
    for search in (evaluation, training):
        assert isinstance(search, SearchTool) and search.timeout_s == 7.0
        client = search._retriever
        assert isinstance(client, HTTPRetriever) and client.timeout_s == 7.0
        assert client._cache is not None and client._cache._folder == Path(cache)


def test_the_default_system_message_is_the_one_the_recipe_trains_with() -> None:
    """So that a policy of `recipes/multihop_smollm2.yaml` is measured as trained without a flag."""
    recipe = yaml.safe_load(Path("recipes/multihop_smollm2.yaml").read_text(encoding="utf-8"))
    assert recipe["system_prompt"] == INSTRUCTION
