"""A run's directory is never written over, and its metrics have one line a step whatever interrupted it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from a2tgpo.errors import RecipeError
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.metrics_file import MetricsFile


def test_a_directory_that_holds_a_run_is_refused(tmp_path: Path) -> None:
    """A new run may begin in a folder that is missing or without a run, not where one began; the message names the
    folder and both ways out."""
    directory = RunDirectory(tmp_path / "runs" / "one")
    directory.check_new()
    directory.begin({"max_steps": 2, "hops": [1, 2]})
    assert yaml.safe_load(directory.config.read_text(encoding="utf-8")) == {"max_steps": 2, "hops": [1, 2]}
    with pytest.raises(RecipeError, match=r"runs/one.*another --output_dir.*--resume_from_checkpoint true"):
        directory.check_new()


def test_resuming_without_a_run_is_refused(tmp_path: Path) -> None:
    """There is nothing to continue where no run began, whatever else the folder holds."""
    directory = RunDirectory(tmp_path)
    (directory.checkpoints / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(RecipeError, match="no run to resume: leave out --resume_from_checkpoint"):
        directory.resume_point()


def test_the_last_whole_checkpoint_is_resumed(tmp_path: Path) -> None:
    """Checkpoints are ordered by step, not by name; one that a kill cut off, without its state or with half of it, is
    passed over; a run that stopped before its first starts its updates anew."""
    directory = RunDirectory(tmp_path)
    directory.begin({})
    assert directory.resume_point() is None
    for step, state in ((9, "{}"), (10, "{}"), (11, '{"epoch": 0.'), (12, None)):
        folder = directory.checkpoints / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if state is not None:
            (folder / "trainer_state.json").write_text(state, encoding="utf-8")
    assert directory.resume_point() == str(directory.checkpoints / "checkpoint-10")


def state(step: int, main: bool = True) -> SimpleNamespace:
    """The Trainer's state after `step` updates."""
    return SimpleNamespace(global_step=step, is_world_process_zero=main)


def steps(path: Path) -> list[int]:
    """Steps of the lines written."""
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_metrics_have_one_line_a_step(tmp_path: Path) -> None:
    """Each log is a line with its step; the closing summary, empty logs and other processes add none."""
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path)
    metrics.on_train_begin(None, state(0), None)
    for step in (1, 2):
        metrics.on_log(None, state(step), None, logs={"reward": 0.5})
        metrics.on_log(None, state(step, main=False), None, logs={"reward": 0.5})
    metrics.on_log(None, state(2), None, logs={"train_runtime": 1.0, "train_loss": 0.0})
    metrics.on_log(None, state(2), None, logs=None)
    assert steps(path) == [1, 2]
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[0]) == {"step": 1, "reward": 0.5}


def test_resumed_metrics_drop_what_is_done_again(tmp_path: Path) -> None:
    """After a crash at step 5 with a checkpoint at step 3, lines 4 and 5, and a line cut in the middle, are gone and
    written anew."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 6)) + '{"step": 6, "rew', encoding="utf-8")
    metrics = MetricsFile(path)
    metrics.on_train_begin(None, state(3), None)
    assert steps(path) == [1, 2, 3]
    metrics.on_log(None, state(4), None, logs={"reward": 1.0})
    assert steps(path) == [1, 2, 3, 4]
