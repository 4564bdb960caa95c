"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import yaml

from a2tgpo.evaluate.run.config import EvalConfig
from a2tgpo.rollout.agent import RolloutLimits
from a2tgpo.rollout.protocol import INSTRUCTION

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
        *("max_prompt_tokens", "timeout_s", "search_timeout_s"),
    }


def test_the_default_system_message_is_the_one_the_recipe_trains_with() -> None:
    """So that a policy of `recipes/multihop_smollm2.yaml` is measured as trained without a flag."""
    recipe = yaml.safe_load(Path("recipes/multihop_smollm2.yaml").read_text(encoding="utf-8"))
    assert recipe["system_prompt"] == INSTRUCTION
