"""Time the parts of a step."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Add up wall-clock seconds by part until they are taken for a log; as a callback, time the optimizer.

    A part that runs inside another is not counted to the outer one. A device may still be busy when a part ends: its
    seconds are then those until the host went on.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._inside = [0.0]
        self._optimizer_start = 0.0

    def add(self, mode: str, part: str, seconds: float) -> None:
        """Add `seconds` to `part` of mode "train" or "eval"."""
        self._seconds[mode][part] += seconds

    @contextmanager
    def measure(self, mode: str, part: str | None) -> Iterator[None]:
        """Time what runs inside; with None for `part`, only keep it out of the part around it."""
        start = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            inside = self._inside.pop()
            self._inside[-1] += seconds
            if part is not None:
                self.add(mode, part, seconds - inside)

    def move(self, mode: str, seconds: float, part: str) -> None:
        """Count `seconds` of the part being measured to `part`."""
        self._inside[-1] += seconds
        self.add(mode, part, seconds)

    def take(self, mode: str) -> dict[str, list[float]]:
        """Return `seconds/PART` of everything since the last call."""
        return {f"seconds/{part}": [seconds] for part, seconds in self._seconds.pop(mode, {}).items()}

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._optimizer_start = time.perf_counter()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.add("train", "optimizer", time.perf_counter() - self._optimizer_start)
