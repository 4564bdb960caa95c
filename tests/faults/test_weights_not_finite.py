"""A policy with NaN or infinite weights: an error wherever it would be evaluated, and no score."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from a2tgpo.cli import main
from tests.evaluate.world import WorldFiles
from tests.run.parts import save_policy, write_recipe


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_it_is_not_evaluated(value: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One number of one weight is enough, on benchmarks and on a recipe's questions: exit 2 and the weight's name."""
    policy = save_policy(tmp_path / "policy")
    model = AutoModelForCausalLM.from_pretrained(policy)
    with torch.no_grad():
        next(model.model.layers[0].parameters())[0, 0] = value
    model.save_pretrained(policy)
    world = WorldFiles.write(tmp_path / "world", 2)
    benchmarks = ["--benchmarks", f"hops={world.questions}", "--retriever", str(world.index)]
    recipe = write_recipe(tmp_path / "recipe.yaml", policy)
    for i, command in enumerate((["eval", "--model", str(policy), *benchmarks], ["eval", str(recipe)])):
        assert main([*command, "--output_dir", str(tmp_path / f"evaluation{i}")]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ") and "model.layers.0" in error and "NaN or infinite" in error
    assert not list(tmp_path.rglob("table.md")) and not list(tmp_path.rglob("eval_*.jsonl"))
