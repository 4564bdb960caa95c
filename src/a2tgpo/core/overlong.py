"""DAPO's penalty for rollouts that come near the token limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from a2tgpo.core._inputs import check_range, check_shapes

if TYPE_CHECKING:
    from jaxtyping import Float, Int


def overlong_penalty(length: Int[Tensor, " B"], *, max_length: int, buffer: int) -> Float[Tensor, " B"]:
    """0 up to max_length − buffer tokens, then falling by 1/buffer per token to −1 (DAPO, arXiv 2503.14476).

    Args:
        length: tokens of each rollout, those of tools included where they use up the limit.
        max_length: the limit; a rollout cut off there has −1.
        buffer: over how many tokens before the limit the penalty grows; DAPO uses 4,096 of 20,480.

    Returns:
        What to add to the reward, in [−1, 0].

    Raises:
        ValueError: lengths that are no vector of integers, or a buffer outside 1..max_length.
    """
    check_shapes(length=(length, "long B"))
    check_range("buffer", buffer, 1, max_length)
    return ((max_length - buffer - length).float() / buffer).clamp(-1, 0)
