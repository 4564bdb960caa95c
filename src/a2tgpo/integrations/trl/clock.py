"""Seconds by part of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Adds up wall-clock seconds by part until they are taken for a log; as a callback it times the optimizer.

    A device may still be busy when a part ends: its seconds are then those until the host went on.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._optimizer_start = 0.0

    def add(self, mode: str, part: str, seconds: float) -> None:
        """Add `seconds` to `part` of mode "train" or "eval"."""
        self._seconds[mode][part] += seconds

    @contextmanager
    def measure(self, mode: str, part: str) -> Iterator[None]:
        """Time what runs inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(mode, part, time.perf_counter() - start)

    def take(self, mode: str) -> dict[str, list[float]]:
        """`seconds/PART` of everything since the last call."""
        return {f"seconds/{part}": [seconds] for part, seconds in self._seconds.pop(mode, {}).items()}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._optimizer_start = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.add("train", "optimizer", time.perf_counter() - self._optimizer_start)
