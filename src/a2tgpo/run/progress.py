"""Progress in one line, and a Ctrl-C that keeps the work done."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from types import FrameType
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

UPDATES = {
    "reward": "reward",
    "rollout/searches": "searches",
    "rollout/format_rate": "format",
    "likelihood/after": "p(gold)",
    "step_time": "s",
}
"""Metrics shown behind the bar of the updates, and their labels."""


class StepProgress(ProgressCallback):
    """The Trainer's progress bar, named, with a few metrics behind it instead of printed dictionaries."""

    def __init__(self, name: str, shown: Mapping[str, str]) -> None:
        super().__init__()
        self.name, self.shown = name, shown

    @classmethod
    def replace_in(cls, trainer: Trainer, name: str, shown: Mapping[str, str]) -> None:
        """Let `trainer` report this way and no other."""
        for default in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(default)
        trainer.add_callback(cls(name, shown))

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        super().on_train_begin(args, state, control)
        if self.training_bar is not None:
            self.training_bar.set_description(self.name)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {label: f"{logs[name]:.2f}" for name, label in self.shown.items() if logs.get(name) is not None}
            if shown:
                self.training_bar.set_postfix(shown)


class InterruptGuard(TrainerCallback):
    """First Ctrl-C: finish the step, save a checkpoint, stop. Second: stop at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> InterruptGuard:
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        print("\nCtrl-C: saving a checkpoint after this step (again to stop at once)", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.requested:
            control.should_save = True
            control.should_training_stop = True
        return control
