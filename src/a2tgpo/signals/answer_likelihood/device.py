"""Work with a GPU without waiting for it: copies that queue up, and times that are read at the end."""

from __future__ import annotations

import time

import torch
from torch import Tensor


def upload(x: Tensor, device: torch.device) -> Tensor:
    """Copy `x` to `device`. A GPU takes it from pinned memory in its turn, while the host goes on."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not x.is_cuda else x.to(device)


class Stopwatch:
    """Split the time since it was made into laps of named parts.

    On a GPU a lap is the time between two events in its stream, and only `seconds` waits for them.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._laps: list[tuple[str, torch.cuda.Event | float, torch.cuda.Event | float]] = []
        self._last = self._now()

    def lap(self, part: str) -> None:
        """End a lap and count it to `part`."""
        start, self._last = self._last, self._now()
        self._laps.append((part, start, self._last))

    def seconds(self, part: str) -> float:
        """Sum the laps of `part`."""
        return sum(_between(start, end) for name, start, end in self._laps if name == part)

    def _now(self) -> torch.cuda.Event | float:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def _between(start: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(start, float) or isinstance(end, float):
        assert isinstance(start, float) and isinstance(end, float)
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1000
