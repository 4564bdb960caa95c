"""What a training logs is strict JSON with one line a step, and numbers that are none end it before they are saved."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from a2tgpo import A2TGPOTrainer
from a2tgpo.errors import TrainingError
from a2tgpo.integrations.trl.callbacks import FiniteGuard, MetricsFile
from tests.integrations.parts import scripted_trainer


def state(step: int, main: bool = True) -> SimpleNamespace:
    """The Trainer's state after `step` updates."""
    return SimpleNamespace(global_step=step, is_world_process_zero=main)


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file, refusing what is not strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_metrics_have_one_line_a_step(tmp_path: Path) -> None:
    """Each log is a line with its step; the closing summary, empty logs and other processes add none."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    for step in (1, 2):
        metrics.on_log(None, state(step), None, logs={"reward": 0.5})
        metrics.on_log(None, state(step, main=False), None, logs={"reward": 0.5})
    metrics.on_log(None, state(2), None, logs={"train_runtime": 1.0, "train_loss": 0.0})
    metrics.on_log(None, state(2), None, logs=None)
    assert records(path) == [{"step": 1, "reward": 0.5}, {"step": 2, "reward": 0.5}]


def test_what_is_no_number_is_null_and_said(tmp_path: Path) -> None:
    """NaN and infinities, which JSON does not have, are null, and `not_finite` says which was what."""
    path = tmp_path / "metrics.jsonl"
    logs = {"loss": float("nan"), "grad_norm": float("inf"), "reward": 0.5}
    MetricsFile(path).on_log(None, state(3), None, logs=logs)
    wrong = {"loss": "nan", "grad_norm": "inf"}
    assert records(path) == [{"step": 3, "loss": None, "grad_norm": None, "reward": 0.5, "not_finite": wrong}]


def spoiled(tmp_path: Path, *, gradient: float | None = None, weight: float | None = None) -> A2TGPOTrainer:
    """A trainer of three updates, each with a checkpoint; in the second a gradient, or after it a weight, is that."""
    trainer = scripted_trainer(tmp_path, [["x"], ["y"]], max_steps=3, save_strategy="steps", save_steps=1)
    trainer.add_callback(FiniteGuard())
    target = trainer.model.model.norm.weight

    def spoil(gradient_: torch.Tensor) -> torch.Tensor:
        return gradient_ * gradient if gradient is not None and trainer.state.global_step == 1 else gradient_

    target.register_hook(spoil)
    if weight is not None:

        class Spoil(FiniteGuard):
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == 2:
                    target.data[0] = weight

        trainer.callback_handler.callbacks.insert(0, Spoil())
    return trainer


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_is_not_taken_on_a_gradient_that_is_no_number(tmp_path: Path, value: float) -> None:
    """The update is named, the weights stay those after the first update, which are the last checkpoint's."""
    trainer = spoiled(tmp_path, gradient=value)
    with pytest.raises(TrainingError, match=r"update 2: the norm of the gradient is (nan|inf)"):
        trainer.train()
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "checkpoint-1").state_dict()
    assert not (tmp_path / "out" / "checkpoint-2").exists()
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_no_checkpoint_is_made_of_weights_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    """A weight that went wrong otherwise is named before the checkpoint that would have held it."""
    with pytest.raises(TrainingError, match=r"update 2: weight model\.norm\.weight is no longer finite"):
        spoiled(tmp_path, weight=value).train()
    assert sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*")) == ["checkpoint-1"]
