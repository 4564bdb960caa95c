"""Which rows share a forward: the cheapest cut there is, and what it saves in a batch of real lengths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.rollout.rows import cheapest_readings


def cost(lengths: Sequence[int], readings: Sequence[Sequence[int]], price: int) -> int:
    return sum(price + len(rows) * max(lengths[row] for row in rows) for rows in readings)


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to put `rows` into groups."""
    if not rows:
        yield []
        return
    for rest in partitions(rows[1:]):
        yield [[rows[0]], *rest]
        for i, group in enumerate(rest):
            yield [*rest[:i], [rows[0], *group], *rest[i + 1 :]]


@given(
    st.lists(st.integers(1, 40), max_size=6),
    st.integers(0, 60),
    st.integers(1, 120),
)
def test_no_partition_is_cheaper(lengths: list[int], price: int, most_tokens: int) -> None:
    """Against every partition of up to six rows that keeps the budget: none costs less, and each row is in one."""
    readings = cheapest_readings(lengths, most_tokens, price)
    assert sorted(row for rows in readings for row in rows) == list(range(len(lengths)))

    def fits(rows: Sequence[int]) -> bool:
        return len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= most_tokens

    assert all(map(fits, readings))
    allowed = [found for found in partitions(list(range(len(lengths)))) if all(map(fits, found))]
    assert cost(lengths, readings, price) == min(cost(lengths, found, price) for found in allowed)


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (64, [[0, 1, 2, 3], [4], [5, 6, 7, 8, 9]]),
        (2048, [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]]),
    ],
)
def test_short_observations_do_not_pad_to_long_ones(price: int, expected: list[list[int]]) -> None:
    """Lengths seen in a batch of the default recipe, five of them the words for no result: read apart where a forward
    is cheap, together where it is not."""
    assert cheapest_readings([126, 126, 111, 96, 34, 5, 5, 5, 5, 5], 8192, price) == expected
