"""Wilson's score interval against its closed form worked out by hand, and what must hold for every count."""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo.evaluate.intervals import Proportion

Z = NormalDist().inv_cdf(0.975)

counts = st.integers(1, 2000).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total)))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775328),  # z² / (n + z²)
        (10, 10, 0.7224672, 1.0),
        (1, 1, 0.2065493, 1.0),
        (5, 10, 0.2365931, 0.7634069),  # 1/2 ± z / (2 √(n + z²))
        (50, 100, 0.4038315, 0.5961685),
        (15, 148, 0.0623864, 0.1604872),
    ],
)
def test_against_numbers_worked_out_by_hand(hits: int, total: int, low: float, high: float) -> None:
    """Bounds from Wilson's closed form, worked out apart from this code, to seven digits."""
    assert Proportion(hits, total).interval == pytest.approx((low, high), abs=5e-7)


@given(counts)
def test_bounds_are_the_roots_of_wilsons_equation(count: tuple[int, int]) -> None:
    """Each bound b solves |p − b| = z √(b(1 − b)/n), which is what the interval is."""
    share = Proportion(*count)
    for bound in share.interval:
        assert (share.value - bound) ** 2 == pytest.approx(Z**2 * bound * (1 - bound) / share.total, abs=1e-9)


@given(counts)
def test_bounds_enclose_the_share_and_mirror(count: tuple[int, int]) -> None:
    """The interval lies in [0, 1], holds the share, and that of the misses is its mirror image."""
    hits, total = count
    low, high = Proportion(hits, total).interval
    assert 0 <= low <= hits / total + 1e-12 and hits / total - 1e-12 <= high <= 1
    mirrored = Proportion(total - hits, total).interval
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-9)


@given(counts)
def test_more_of_the_same_evidence_narrows_it(count: tuple[int, int]) -> None:
    """Four times the questions with the same share give a narrower interval inside the first."""
    hits, total = count
    low, high = Proportion(hits, total).interval
    inner_low, inner_high = Proportion(4 * hits, 4 * total).interval
    assert low - 1e-12 <= inner_low and inner_high <= high + 1e-12
    assert inner_high - inner_low < high - low


def test_nothing_has_no_share() -> None:
    """Of no questions, neither share nor interval is a number, and nothing raises."""
    nothing = Proportion(0, 0)
    assert math.isnan(nothing.value) and all(map(math.isnan, nothing.interval))
