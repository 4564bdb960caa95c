"""Demonstrations that no rollout could have been are left out whole."""

from __future__ import annotations

import pytest

from a2tgpo.errors import DataError
from a2tgpo.rollout.agent import RolloutLimits
from a2tgpo.rollout.demonstration import within


def row(*runs: int) -> dict[str, list[int]]:
    """A prompt of 3 tokens, then turns and observations by turns, of so many tokens."""
    written = [0, 0, 0] + [1 - i % 2 for i, n in enumerate(runs) for _ in range(n)]
    return {"input_ids": [7] * len(written), "completion_mask": written}


@pytest.mark.parametrize(
    ("limits", "kept", "dropped"),
    [
        ({"max_completion_tokens": 6}, row(2, 1, 2, 1), row(2, 2, 2, 1)),
        ({"max_turn_tokens": 4}, row(4, 9, 4), row(4, 9, 5)),
        ({"max_searches": 1}, row(1, 1, 1), row(1, 1, 1, 1, 1)),
    ],
)
def test_a_row_is_kept_whole_or_dropped(
    limits: dict[str, int], kept: dict[str, list[int]], dropped: dict[str, list[int]]
) -> None:
    """Rows at the very limit stay as they are; one token or one search more, and a row is gone. The prompt, which has a
    budget of its own, does not count."""
    assert within([dropped, kept, dropped], RolloutLimits(**limits)) == [kept]


def test_nothing_left_is_said() -> None:
    """Demonstrations that are all over budget end the run with what to raise; none at all are none."""
    with pytest.raises(DataError, match=r"none of 2 demonstrations.*max_turn_tokens=4.*raise max_completion_length"):
        within([row(5), row(6)], RolloutLimits(max_turn_tokens=4))
    assert within([], RolloutLimits()) == []
