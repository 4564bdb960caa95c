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
    """Number the anchor states of each prompt's turns; −1 where a rollout has no turn (GiGPO, arXiv 2505.10978).

    The state of a turn is what the environment last said: nothing before the first turn, the observation before each
    later one. At a `similarity` of 1 equal texts are one state. Below, a text belongs to the first known state to whose
    first text it is similar enough by difflib's ratio, computed as the published code does: the new text is the first
    argument, and autojunk is on (it ignores characters that are more than 1 % of a known text of 200 or more).

    Args:
        observations: for each rollout the text before each of its turns, a prompt's rollouts consecutive.
        group_size: rollouts per prompt.
        n_columns: T.
        similarity: in (0, 1]; GiGPO's runs with search have 0.9.
    """
    state = torch.full((len(observations), n_columns), -1)
    for start in range(0, len(observations), group_size):
        known: list[str] = []
        for row, texts in enumerate(observations[start : start + group_size], start):
            for turn, text in enumerate(texts):
                number = next((i for i, other in enumerate(known) if _same(text, other, similarity)), len(known))
                if number == len(known):
                    known.append(text)
                state[row, turn] = number
    return state


def _same(text: str, known: str, similarity: float) -> bool:
    if similarity == 1.0:
        return text == known
    matcher = SequenceMatcher(None, text, known)
    # The first two are cheap upper bounds of the third.
    return all(ratio() >= similarity for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio))
