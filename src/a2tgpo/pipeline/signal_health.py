"""Count what a process signal cost and could not score, and end a run whose judge is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from a2tgpo.errors import JudgeError
from a2tgpo.pipeline.batch import RolloutBatch
from a2tgpo.pipeline.collective import Collective
from a2tgpo.pipeline.turn_signals import TurnSignals
from a2tgpo.signals import ProcessSignal

FAILED_BATCHES = 3
"""Batches in a row of which no rollout was scored, after which the signal counts as gone."""

T = TypeVar("T")


def in_all_processes(ask: Callable[[], T], collective: Collective) -> T:
    """Ask, and raise a `JudgeError` of one process in all of them, so that none waits for it or saves alone."""
    found, error = None, None
    try:
        found = ask()
    except JudgeError as failure:
        error = failure
    if collective.any(error is not None):
        raise error or JudgeError("the judge failed in another process, whose log says why")
    assert found is not None, "it raised or answered"
    return found


class SignalHealth:
    """Watch the process signal of a run."""

    def __init__(self) -> None:
        self._failed_batches = 0

    def note(self, signals: TurnSignals, batch: RolloutBatch, collective: Collective) -> None:
        """Count a batch of which no rollout with a process turn was scored, in any process, or begin to count anew.

        Raises:
            JudgeError: it was one of `FAILED_BATCHES` in a row: nothing can be learned from them.
        """
        if signals.unscored is None:
            return
        judged = batch.boundaries.is_process.any(dim=1).tolist()
        reasons = [reason for reason, asked in zip(signals.unscored, judged, strict=True) if asked]
        if collective.any(None in reasons):
            self._failed_batches = 0
        elif collective.any(bool(reasons)):
            self._failed_batches += 1
        if self._failed_batches >= FAILED_BATCHES:
            last = next((reason for reason in reasons if reason is not None), "another process, whose log says why")
            raise JudgeError(
                f"no turn of {self._failed_batches} batches in a row was scored, the last time: {last}; "
                "nothing can be learned from them, so mend the signal and resume"
            )


def signal_counts(signal: ProcessSignal | None, collective: Collective) -> dict[str, float]:
    """Return what the signal counted since the last batch, over all processes; empty for one that counts nothing.

    Counts are added up; names in `seconds` are the slowest process's, in `share` the mean. Failures that did not
    happen are left out.
    """
    take = getattr(signal, "take_counts", None)
    if not callable(take):
        return {}
    counts: dict[str, float] = take()
    everywhere = collective.gather(torch.tensor([list(counts.values())], dtype=torch.float32))
    found = {}
    for name, values in zip(counts, everywhere.T, strict=True):
        join = torch.max if name.endswith("seconds") else torch.mean if name.endswith("share") else torch.sum
        found[name] = join(values).item()
    return {name: value for name, value in found.items() if value or "/failed_" not in name}
