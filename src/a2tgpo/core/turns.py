"""Find turns, runs of tokens the policy wrote, and move values between turns and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes, check_values

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def turn_ids(model_mask: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Return the turn each token belongs to: the 0-based index of its maximal run of model tokens.

    Args:
        model_mask: True on tokens the policy wrote, False on observations and padding.

    Returns:
        0, 1, ... on model tokens and -1 elsewhere.

    Raises:
        ValueError: `model_mask` is not a boolean matrix.
    """
    check_shapes(model_mask=(model_mask, "bool B L"))
    before = torch.nn.functional.pad(model_mask[:, :-1], (1, 0))
    starts = model_mask & ~before
    return torch.where(model_mask, starts.cumsum(dim=1) - 1, -1)


def to_tokens(per_turn: Float[Tensor, "B T"], turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Give every model token the value of its turn, and every other token 0."""
    return torch.where(turn_ids >= 0, per_turn.gather(1, turn_ids.clamp(min=0)), 0)


def keep_turns(turn_ids: Int[Tensor, "B L"], kept: Bool[Tensor, "B T"]) -> Int[Tensor, "B L"]:
    """Return the turn of each token of the `kept` turns, -1 on all others.

    Raises:
        ValueError: mismatched shapes, or a turn that `kept` has no column for.
    """
    check_shapes(turn_ids=(turn_ids, "long B L"), kept=(kept, "bool B T"))
    check_turn_ids(turn_ids, kept.shape[1])
    return torch.where(kept.gather(1, turn_ids.clamp(min=0)), turn_ids, -1)


def turn_sum(per_token: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"], n_turns: int) -> Float[Tensor, "B T"]:
    """Sum a per-token value over each of `n_turns` turns; other tokens are left out, NaN or not."""
    kept = torch.where(turn_ids >= 0, per_token, 0)
    return kept.new_zeros(len(kept), n_turns).scatter_add(1, turn_ids.clamp(min=0), kept)


def turn_mean(per_token: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"], n_turns: int) -> Float[Tensor, "B T"]:
    """Return the mean of a per-token value over each of `n_turns` turns; 0 for a turn without tokens.

    Raises:
        ValueError: mismatched shapes, or a turn past `n_turns`.
    """
    check_shapes(per_token=(per_token, "float B L"), turn_ids=(turn_ids, "long B L"))
    check_turn_ids(turn_ids, n_turns)
    n_tokens = turn_sum(torch.ones_like(per_token), turn_ids, n_turns)
    return turn_sum(per_token, turn_ids, n_turns) / n_tokens.clamp(min=1)


def check_turn_ids(turn_ids: Int[Tensor, "B L"], n_turns: int | None = None) -> None:
    """Raise ValueError for an index outside −1..n_turns−1, and for a turn that begins before the one below it."""
    check_values("turn_ids", turn_ids, turn_ids >= -1, "use -1 on every token the policy did not write")
    latest = turn_ids.cummax(dim=1).values
    before = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)
    check_values(
        "turn_ids",
        turn_ids,
        turn_ids <= before + 1,
        "an earlier turn is empty, so number the turns of a rollout 0, 1, ... as a2tgpo.core.turn_ids does",
    )
    if n_turns is not None:
        rule = f"there are {n_turns} turn columns; give one to every turn"
        check_values("turn_ids", turn_ids, turn_ids < n_turns, rule)
