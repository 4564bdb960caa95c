"""Which rows are read in one forward."""

from __future__ import annotations

import math
from collections.abc import Sequence


def cheapest_readings(lengths: Sequence[int], most_tokens: int, price: int) -> list[list[int]]:
    """Rows cut into forwards so that padding and forwards together cost the least.

    A forward of R rows, the longest of N tokens, costs `price` + R·N: what any forward takes, in tokens, and the tokens
    that it reads, padding included. In order of length one of the cheapest cuts is into neighbours, so that

        cost(i) = min over j > i of price + (j − i)·N_i + cost(j),    (j − i)·N_i ≤ most_tokens or j = i + 1

    over N_1 ≥ N_2 ≥ … finds it.

    Args:
        lengths: tokens to be read of each row, at least 1.
        most_tokens: most tokens of one forward, padding included; a longer row is read alone.
        price: tokens that could be read in the time that a forward takes whatever its size.

    Returns:
        The rows of each forward, longest first.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True)
    costs, ends = [math.inf] * len(order) + [0], [0] * len(order)
    for i in reversed(range(len(order))):
        width = lengths[order[i]]
        for j in range(i + 1, min(len(order), max(i + 1, i + most_tokens // width)) + 1):
            if (cost := price + (j - i) * width + costs[j]) < costs[i]:
                costs[i], ends[i] = cost, j
    readings, first = [], 0
    while first < len(order):
        readings.append(order[first : ends[first]])
        first = ends[first]
    return readings
