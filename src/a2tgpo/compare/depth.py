"""Measure depth over training: whether deeper questions keep their searches and get right answers."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from a2tgpo.gold import read_aliases
from a2tgpo.pipeline.rollout_log import read_rollouts
from a2tgpo.text_match import exact_match

STRETCHES = ("first", "last")
"""A run's first and last fifth of generation batches."""


def depth_measures(rollouts: Path) -> dict[str, float]:
    """Return right answers and searches of training rollouts by the hops of their question, early and late.

    Args:
        rollouts: the folder of a run's rollout log.

    Returns:
        `training/right/N_hops/first` and `/last`, shares in [0, 1], and `training/searches/N_hops/…`, means per
        rollout; nothing where the log has no hops.
    """
    files = sorted(rollouts.glob("step_*.jsonl"))
    n = -(-len(files) // 5)
    values: dict[str, float] = {}
    for stretch, chosen in zip(STRETCHES, (files[:n], files[-n:] if n else []), strict=True):
        by_hops: dict[int, list[tuple[bool, int]]] = {}
        for record in (record for file in chosen for record in read_rollouts(file)):
            if record.hops is not None:
                aliases = read_aliases(record.answer, f"rollout {record.id!r}")
                measured = exact_match(record.prediction, aliases), len(record.calls)
                by_hops.setdefault(int(record.hops), []).append(measured)
        for hops, pairs in sorted(by_hops.items()):
            values[f"training/right/{hops}_hops/{stretch}"] = fmean(right for right, _ in pairs)
            values[f"training/searches/{hops}_hops/{stretch}"] = fmean(searches for _, searches in pairs)
    return values
