"""Show how a run is going: a progress bar with a few metrics, and a table by turn depth every few steps."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback

UPDATES = {
    "reward": "reward",
    "rollout/searches": "calls",
    "rollout/format_rate": "format",
    "likelihood/after": "p(gold)",
    "step_time": "s",
}
"""Metrics shown behind the bar of the updates, and their labels."""

SUMMARIES = 10
"""Tables of a run."""

_SHOWN = {
    "reward": "reward",
    "rollout/format_rate": "format",
    "rollout/searches": "calls",
    "likelihood/before": "p(gold) before",
    "likelihood/after": "after",
    "entropy": "entropy",
    "loss/clipped_low": "clipped low",
    "loss/clipped_high": "high",
    "step_time": "s a step",
}
_BY_DEPTH = {"gain": "gain", "gain_std": "spread", "advantage": "advantage"}
_DEPTH = re.compile(rf"({'|'.join(_BY_DEPTH)})/turn_(\d+)")


class StepProgress(ProgressCallback):
    """Name the Trainer's progress bar and show a few metrics behind it instead of printed dictionaries."""

    def __init__(self, name: str, shown: Mapping[str, str]) -> None:
        super().__init__()
        self.name, self.shown = name, shown

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        super().on_train_begin(args, state, control)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {label: f"{logs[name]:.2f}" for name, label in self.shown.items() if logs.get(name) is not None}
            if shown:
                self.training_bar.set_postfix(shown)


class ConsoleSummary(TrainerCallback):
    """Print the means since the last table, `SUMMARIES` times a run, above the progress bar."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._values: dict[str, list[float]] = defaultdict(list)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs or {"train_runtime", "eval_runtime"} & logs.keys():
            return
        for name, value in logs.items():
            if isinstance(value, int | float):
                self._values[name].append(float(value))
        if state.global_step % max(1, state.max_steps // SUMMARIES) == 0:
            with self.console.capture() as text:
                self.console.print(*summary_tables(_means(self._values), state.global_step, state.max_steps))
            tqdm.write(text.get().rstrip())
            self._values.clear()


def summary_tables(means: Mapping[str, float], step: int, max_steps: int) -> list[Table | str]:
    """Lay out metrics of the run, then gain, its spread and advantage by depth; what was not logged is left out."""
    run = Table(box=box.SIMPLE_HEAD)
    shown = {label: means[name] for name, label in _SHOWN.items() if name in means}
    for label in shown:
        run.add_column(label, justify="right")
    run.add_row(*(f"{value:.3f}" for value in shown.values()))
    depths: dict[int, dict[str, float]] = defaultdict(dict)
    for name, value in means.items():
        if match := _DEPTH.fullmatch(name):
            depths[int(match[2])][match[1]] = value
    turns = Table("turn", box=box.SIMPLE_HEAD)
    for label in _BY_DEPTH.values():
        turns.add_column(label, justify="right")
    for depth, values in sorted(depths.items()):
        turns.add_row(str(depth), *(f"{values[name]:+.3f}" if name in values else "" for name in _BY_DEPTH))
    return [f"step {step} of {max_steps}", run, *([turns] if depths else [])]


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: fmean(found) for name, found in values.items()}
