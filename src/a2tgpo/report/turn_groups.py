"""Describe turn groups: the gains of one question's rollouts at the same depth."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, pstdev

from a2tgpo.report.logged_rollout import Batch, Rollout, finite
from a2tgpo.report.run_data import RunData

NOISE = 0.01
"""Below this standard deviation a turn group's gains hardly differ: what normalisation leaves is noise."""


@dataclass(frozen=True)
class TurnGroup:
    """Hold number, mean and population standard deviation of the gains in a turn group.

    `noise` marks likelihood gains with a spread below `NOISE`; other signals have a scale of their own.
    """

    n: int
    mean: float
    std: float
    noise: bool


def turn_groups(batch: Batch) -> dict[int, list[TurnGroup]]:
    """Return the turn groups of each question of the batch, by depth; rollouts excluded from the loss are left out."""
    return {group: _of(members) for group, members in batch.groups()}


def _of(members: list[Rollout]) -> list[TurnGroup]:
    valid = [rollout for rollout in members if rollout.valid]
    depth = max((rollout.n_process for rollout in valid), default=0)
    groups = []
    for turn in range(depth):
        gains = finite(rollout.gain[turn] for rollout in valid if turn < rollout.n_process)
        std = pstdev(gains) if gains else 0.0
        scored = any(rollout.likelihood for rollout in valid)
        mean = fmean(gains) if gains else 0.0
        groups.append(TurnGroup(len(gains), mean, std, scored and len(gains) > 1 and std < NOISE))
    return groups


def normalises_in_turn_groups(run: RunData) -> bool:
    """Tell whether the logged normalised gains are (gain − mean)/std of the turn group, as far as that can be seen."""
    for batch in run.batches:
        groups = turn_groups(batch)
        for rollout in batch.rollouts:
            if not (rollout.valid and rollout.finite):
                continue
            for gain, logged, at in zip(rollout.gain, rollout.normalized_gain, groups[rollout.group], strict=False):
                if at.n > 1 and at.std > NOISE and abs((gain - at.mean) / at.std - logged) > 0.02 * (1 + abs(logged)):
                    return False
    return True
