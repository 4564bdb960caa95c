"""Number the anchor states of a prompt's turns: those that started from the same observation share one."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Int


def number_states(
    observations: Sequence[Sequence[str]], group_size: int, n_columns: int, similarity: float = 1.0
) -> Int[Tensor, "B T"]:
    """Number the states of each prompt's turns; −1 where a rollout has no turn (GiGPO, arXiv 2505.10978).

    The state of a turn is what the environment last said: nothing before the first turn, the observation before each
    later one. Two states are one where their texts are equal or, below a `similarity` of 1, where difflib's ratio of a
    text to the first text of a known state is at least that.

    Args:
        observations: for each rollout the text before each of its turns, a prompt's rollouts consecutive.
        group_size: rollouts per prompt.
        n_columns: T.
        similarity: in (0, 1].
    """
    state = torch.full((len(observations), n_columns), -1)
    for start in range(0, len(observations), group_size):
        known: list[str] = []
        for row, texts in enumerate(observations[start : start + group_size], start):
            for turn, text in enumerate(texts):
                number = next((i for i, other in enumerate(known) if _same(other, text, similarity)), len(known))
                if number == len(known):
                    known.append(text)
                state[row, turn] = number
    return state


def _same(one: str, other: str, similarity: float) -> bool:
    if one == other or similarity == 1.0:
        return one == other
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= similarity
