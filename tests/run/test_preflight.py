"""What would end a run after its warm start is said before it, in one line."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from a2tgpo.cli import main
from a2tgpo.pretrained import open_tokenizer
from a2tgpo.run.interrupt import updates_per_batch
from a2tgpo.run.preflight import check_run
from a2tgpo.run.recipe_file import load_recipe
from tests.run.parts import save_policy, write_recipe


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"report_to": "wandbb"}, "report_to='wandbb': no such tracker; there are "),
        ({"report_to": "clearml"}, "report_to='clearml': clearml is not installed; pip install clearml"),
        ({"use_vllm": True}, "use_vllm=True needs vllm, which is not installed: pip install 'a2tgpo[vllm]'"),
        ({"push_to_hub": True, "hub_token": "hf_nobody_nobody_nobody"}, "push_to_hub=True: the Hub does not let us in"),
        ({"beta": 0.1, "use_peft": True, "lora_target_modules": "no_such_module"}, "no_such_module"),
    ],
)
def test_it_is_said_before_the_warm_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], message: str
) -> None:
    """A tracker, vLLM, the Hub and what the trainer itself refuses: exit 2, one line, and no run has begun."""
    recipe = write_recipe(tmp_path / "recipe.yaml", save_policy(tmp_path / "policy"), **changes)
    capsys.readouterr()
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "run" / "config.yaml").exists() and not (tmp_path / "run" / "warm_start").exists()


@pytest.mark.parametrize(("save_steps", "warned"), [(4, False), (3, True), (8, False)])
def test_checkpoints_within_a_batch_are_said(tmp_path: Path, save_steps: int, warned: bool) -> None:
    """With four updates a batch, only checkpoints after whole batches let a killed run go on as it would have."""
    policy = save_policy(tmp_path / "policy")
    recipe = write_recipe(tmp_path / "recipe.yaml", policy, save_steps=save_steps, steps_per_generation=4)
    task: Any = SimpleNamespace(train_dataset=range(8), rewards=[], check=lambda tokenizer: None)
    console = Console(file=io.StringIO(), width=300)
    check_run(load_recipe(str(recipe)), task, open_tokenizer(str(policy)), console)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert (f"save_steps={save_steps} is no multiple of the 4 updates of a batch" in told) == warned


@pytest.mark.parametrize(
    ("steps", "iterations", "accumulated", "updates"),
    [(4, 1, 1, 4), (4, 2, 1, 8), (4, 1, 4, 1), (2, 1, 8, 1), (4, 1, 3, 4)],
)
def test_updates_of_a_batch(steps: int, iterations: int, accumulated: int, updates: int) -> None:
    """Micro-batches of a batch times its passes, over those of an update; where that is no whole number, as many as it
    takes until both end together."""
    args = SimpleNamespace(
        steps_per_generation=steps, num_iterations=iterations, gradient_accumulation_steps=accumulated
    )
    assert updates_per_batch(args) == updates
