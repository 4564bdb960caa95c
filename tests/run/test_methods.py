"""Every row of the methods table trains the default recipe's policy on its world, through the recipe's own path."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from a2tgpo.methods import METHODS
from a2tgpo.rollout.strategies import DynamicSampling
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.train import train

RECIPE = Path(__file__).parents[2] / "recipes/hops_cpu.yaml"
SMALL = dict(
    world_entities=40,
    n_train_questions=40,
    n_eval_questions=4,
    hops=[1, 2],
    max_searches=3,
    max_turn_tokens=32,
    max_completion_length=400,
)


def run(folder: Path, **changes: object) -> RunDirectory:
    """The default recipe with `changes`, run in `folder`."""
    folder.mkdir()
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8")) | SMALL | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    directory = RunDirectory(folder / "run")
    train(load_recipe(str(path)), directory, Console(file=io.StringIO()))
    return directory


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped policy after a short warm start, so that most of its rollouts keep the format."""
    return run(tmp_path_factory.mktemp("methods") / "start", max_steps=0, warm_start_steps=30).warm_start


@pytest.mark.parametrize("name", METHODS)
def test_a_row_of_the_table_trains(tmp_path: Path, start: Path, name: str) -> None:
    """Two batches of two prompts × eight rollouts, two updates each: the weights move, the loss is a number, the parts
    of the method show in what is logged, and every rollout is logged with its credit."""
    directory = run(
        tmp_path / name,
        model_name_or_path=str(start),
        warm_start_steps=0,
        method=name,
        per_device_train_batch_size=8,
        steps_per_generation=2,
        max_steps=4,
    )
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (start, directory.model))
    assert any(not torch.equal(before[key], after[key]) for key in before)
    metrics = [json.loads(line) for line in directory.metrics.open(encoding="utf-8")]
    assert [step["step"] for step in metrics] == [1, 2, 3, 4]
    assert all(math.isfinite(step["loss"]) for step in metrics)
    method = METHODS[name]
    assert ("gain/turn_1" in metrics[0]) == method.signal
    assert ("rollout/sampled_batches" in metrics[0]) == isinstance(method.sampling, DynamicSampling)
    rollouts = [json.loads(line) for line in (directory.rollouts / "step_000000.jsonl").open(encoding="utf-8")]
    assert len(rollouts) == 16
    assert all(("gain" in rollout) == method.signal for rollout in rollouts)
    if not method.shares_turns:
        return
    # A rollout that branched off owns what it wrote after that, and no more.
    assert all(rollout["owned"] == sorted(rollout["owned"]) for rollout in rollouts)
    assert name != "tree-grpo" or sum(not all(rollout["owned"]) for rollout in rollouts) >= 1


def test_adapters_are_trained_and_merged(tmp_path: Path, start: Path) -> None:
    """`use_peft: true` trains LoRA in place of the weights: what is saved, and evaluated afterwards, is a plain model
    whose adapted matrices have moved and no other."""
    pytest.importorskip("peft")
    directory = run(
        tmp_path / "lora",
        model_name_or_path=str(start),
        warm_start_steps=0,
        per_device_train_batch_size=8,
        steps_per_generation=2,
        max_steps=2,
        learning_rate=1e-2,
        use_peft=True,
        lora_r=2,
        lora_target_modules=["q_proj", "v_proj"],
    )
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (start, directory.model))
    assert before.keys() == after.keys() and not (directory.model / "adapter_config.json").exists()
    moved = {name.split(".")[-2] for name in before if not torch.allclose(before[name], after[name], atol=1e-6)}
    assert moved == {"q_proj", "v_proj"}
    assert directory.evaluation("after_greedy").exists()
