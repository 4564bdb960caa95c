"""pass@k against counting, and against what it estimates."""

from __future__ import annotations

from itertools import combinations
from math import comb

import pytest

from a2tgpo.evaluate.pass_at_k import pass_at_k


@pytest.mark.parametrize("samples", range(1, 8))
def test_it_counts_choices(samples: int) -> None:
    """For every c and k: the share of all choices of k samples that hold a correct one, counted one by one."""
    for correct in range(samples + 1):
        for k in range(1, samples + 1):
            choices = list(combinations([True] * correct + [False] * (samples - correct), k))
            assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, choices)) / len(choices))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_it_is_unbiased(p: float, k: int) -> None:
    """Its mean over c ~ Binomial(8, p) is 1 − (1 − p)^k, the chance that one of k fresh samples is right."""
    mean = sum(comb(8, c) * p**c * (1 - p) ** (8 - c) * pass_at_k(8, c, k) for c in range(9))
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("arguments", [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)])
def test_impossible_counts(arguments: tuple[int, int, int]) -> None:
    """More chosen or more correct than there are, or none chosen, is an error and no number."""
    with pytest.raises(ValueError, match="between"):
        pass_at_k(*arguments)
