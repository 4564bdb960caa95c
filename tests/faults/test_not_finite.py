"""A number that is none ends a run before it spoils the weights, and a model that holds one is not evaluated."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from a2tgpo.cli import main
from a2tgpo.errors import RecipeError
from a2tgpo.pretrained import open_model
from a2tgpo.run.checkpoints import checkpoints_in
from a2tgpo.run.directory import RunDirectory
from tests.run.parts import save_policy, write_recipe

REWARDS = """
import itertools

calls = itertools.count()


def infinite_later(completions, **columns):
    first = float("inf") if next(calls) == 1 else 1.0
    return [first, *[0.0] * (len(completions) - 1)]
"""


def spoil(policy: Path, value: float) -> Path:
    """Put `value` into one place of a saved model's last matrix."""
    path = policy / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.down_proj.weight"][3, 2] = value
    save_file(weights, path, metadata={"format": "pt"})
    return policy


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_holds_one_is_refused(tmp_path: Path, value: float, dtype: str) -> None:
    """Wherever it is and in either precision, the weight is named; the model without it opens."""
    policy = save_policy(tmp_path / "policy")
    open_model(str(policy), dtype=dtype)
    with pytest.raises(RecipeError, match=r"weight model\.layers\.1\.mlp\.down_proj\.weight holds NaN or infinite"):
        open_model(str(spoil(policy, value)), dtype=dtype)


def test_it_is_not_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`a2tgpo eval` exits 2 with the weight's name, and begins nothing."""
    recipe = write_recipe(tmp_path / "recipe.yaml", spoil(save_policy(tmp_path / "policy"), math.nan))
    capsys.readouterr()
    assert main(["eval", str(recipe)]) == 2
    assert "holds NaN or infinite numbers" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_an_infinite_reward_ends_a_run_before_its_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second batch a reward is infinite: exit 2 and one line, the checkpoint is that of the first update and
    finite, the log is strict JSON, and the printed command goes on from there."""
    name = f"rewards_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(REWARDS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    policy = save_policy(tmp_path / "policy")
    recipe = write_recipe(
        tmp_path / "recipe.yaml", policy, warm_start_steps=0, max_steps=3, reward=[f"{name}:infinite_later"]
    )
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "error: " in error and "continue with: a2tgpo train" in error and "Traceback" not in error
    run = RunDirectory(tmp_path / "run")
    assert [path.name for path in checkpoints_in(run.checkpoints)] == ["checkpoint-1"]
    saved = load_file(run.checkpoints / "checkpoint-1" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in saved.values())
    for line in run.metrics.read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert main(["train", str(recipe), "--resume_from_checkpoint", "true"]) == 0
