"""A completion as runs of one author."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Segment:
    """Consecutive tokens of the policy's turn `turn` (from 0), or of the environment (`turn` −1)."""

    turn: int
    ids: list[int] = field(default_factory=list)


def segments(ids: Sequence[int], turn_ids: Sequence[int]) -> list[Segment]:
    """Cut `ids` wherever the author changes, given the turn of each token (see `core.turn_ids`)."""
    runs: list[Segment] = []
    for token, turn in zip(ids, turn_ids, strict=True):
        if not runs or runs[-1].turn != turn:
            runs.append(Segment(turn))
        runs[-1].ids.append(token)
    return runs
