"""The console shows a named bar with known metrics, and a table of means by depth, as often as promised."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState

from a2tgpo.run.console import SUMMARIES, UPDATES, ConsoleSummary, StepProgress, summary_tables


def rendered(*tables: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(*tables)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_depths_are_rows_in_order_and_gaps_stay_empty() -> None:
    """Turn 10 comes after turn 2; a depth without a gain shows its advantage; what was not logged has no column."""
    text = rendered(*summary_tables({"reward": 0.25, "gain/turn_10": 0.5, "advantage/turn_2": -1.0}, 3, 9))
    lines = [line.split() for line in text.splitlines() if line.strip()]
    assert lines[0] == ["step", "3", "of", "9"]
    assert ["2", "-1.000"] in lines and ["10", "+0.500"] in lines
    assert lines.index(["2", "-1.000"]) < lines.index(["10", "+0.500"])
    assert "0.250" in text and "entropy" not in text


def test_means_since_the_last_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Over 20 steps with rewards 1 to 20 there are ten tables, each with the mean of its two steps; other processes and
    the closing summary print nothing."""
    summary = ConsoleSummary(Console(width=160))
    for step in range(1, 21):
        state = SimpleNamespace(is_world_process_zero=True, global_step=step, max_steps=20)
        summary.on_log(None, state, None, logs={"reward": float(step)})
    summary.on_log(None, state, None, logs={"train_runtime": 1.0, "reward": 99.0})
    other = SimpleNamespace(is_world_process_zero=False, global_step=2, max_steps=20)
    summary.on_log(None, other, None, logs={"reward": 77.0})
    text = capsys.readouterr().out
    assert text.count("reward") == SUMMARIES == 10
    assert all(f"{first + 0.5:.3f}" in text for first in range(1, 20, 2))
    assert "99.000" not in text and "77.000" not in text


def test_the_bar_shows_names_and_known_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """The bar carries its name and the metrics asked for, by their short names; a log without any of them, such as the
    closing summary, changes nothing."""
    progress = StepProgress("updates", UPDATES)
    state = TrainerState(is_world_process_zero=True, max_steps=3)
    progress.on_train_begin(None, state, TrainerControl())
    progress.on_log(None, state, TrainerControl(), logs={"reward": 0.25, "rollout/searches": 1.5, "loss": 3.0})
    progress.on_log(None, state, TrainerControl(), logs={"train_runtime": 3.0})
    progress.on_train_end(None, state, TrainerControl())
    shown = capsys.readouterr().err
    assert "updates" in shown and "reward=0.25, calls=1.50" in shown
    assert "loss" not in shown and "train_runtime" not in shown
