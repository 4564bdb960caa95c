"""pass@k: the chance that one of k samples is right."""

from __future__ import annotations

from math import comb


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """1 − C(n − c, k) / C(n, k), in [0, 1]: an unbiased estimate of pass@k (Chen et al. 2021, arXiv 2107.03374).

    It is the share, of all ways to choose k of a question's n samples, that hold one of its c correct ones.

    Raises:
        ValueError: `k` outside [1, samples], or `correct` outside [0, samples].
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k={k}: of {samples} samples, choose between 1 and {samples}")
    if not 0 <= correct <= samples:
        raise ValueError(f"correct={correct}: of {samples} samples, between 0 and {samples} can be")
    return 1 - comb(samples - correct, k) / comb(samples, k)
