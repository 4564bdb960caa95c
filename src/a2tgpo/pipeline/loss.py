"""The loss of one micro-batch, from the credit its turns were given when they were generated.

BatchCredit ── LossInputs.of ── [B, L] per token ── shuffled, packed, sharded by the engine ── turn_loss
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from a2tgpo.core import kl_penalty, policy_loss, rollout_mean, turn_ids
from a2tgpo.methods import Method
from a2tgpo.pipeline.collective import Collective
from a2tgpo.pipeline.credit import BatchCredit

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class LossInputs:
    """Hold what the loss reads of B rollouts beside log-probabilities: one number per token, so that an engine may
    shuffle, pack, pad and shard rows without knowing of turns.

    Two rollouts; the first wrote a search turn of two tokens, read an observation of one, and answered in one token:

        turn_ids      [[0, 0, −1, 1], [0, −1, −1, −1]]     −1 on tokens that are excluded from the loss
        advantage     [[.8, .8, 0, 1], [−1, 0, 0, 0]]      of the token's turn
        clip_scale    [[1.1, 1.1, 1, 1], [1, 1, 1, 1]]     of the token's turn
        owned         [[1, 1, 0, 1], [1, 0, 0, 0]]         owner mask: a turn that rollouts share counts in one of them
        n_turns       2                                    turns of any rollout at most, on the CPU
        n_tokens      4.                                   what a token mean divides by; 0 until the engine knows it

    Attributes:
        n_tokens: owned tokens of the update that the micro-batch belongs to, divided by the processes whose gradients
            are averaged. Read by methods that average over tokens.
    """

    turn_ids: Int[Tensor, "B L"]
    advantage: Float[Tensor, "B L"]
    clip_scale: Float[Tensor, "B L"]
    owned: Bool[Tensor, "B L"]
    n_turns: Int[Tensor, ""]
    n_tokens: Float[Tensor, ""]

    @classmethod
    def of(cls, credit: BatchCredit, model_mask: Bool[Tensor, "B L"]) -> LossInputs:
        """Spread this process's `credit` over the tokens that the policy wrote; rollouts not valid are left out."""
        ids = turn_ids(model_mask & credit.valid[:, None])
        return cls(
            turn_ids=ids,
            advantage=_of_turn(credit.advantage, ids, 0.0),
            clip_scale=_of_turn(credit.clip_scale, ids, 1.0),
            owned=ids >= 0 if credit.owned is None else _of_turn(credit.owned, ids, False),
            n_turns=torch.tensor(credit.advantage.size(1)),
            n_tokens=torch.zeros((), device=ids.device),
        )

    def columns(self) -> dict[str, Tensor]:
        """Return the tensors under the names they have among an engine's columns."""
        return {column: getattr(self, name) for name, column in _COLUMNS.items()}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> LossInputs:
        """Read them back from an engine's columns."""
        return cls(**{name: columns[column] for name, column in _COLUMNS.items()})

    def over_tokens(self, n_tokens: Float[Tensor, ""]) -> LossInputs:
        """Return the same inputs for an update of `n_tokens` owned tokens."""
        return replace(self, n_tokens=n_tokens)


_COLUMNS = {
    "turn_ids": "turn_ids",
    "advantage": "turn_advantages",
    "clip_scale": "turn_clip_scale",
    "owned": "turn_owned",
    "n_turns": "turn_columns",
    "n_tokens": "turn_update_tokens",
}
"""Field of `LossInputs` -> name of an engine's column."""

TOKEN_COLUMNS = tuple(_COLUMNS[name] for name in ("turn_ids", "advantage", "clip_scale", "owned"))
"""Engine columns that are [B, L] and must be cut, padded and shuffled as the tokens are."""


def tokens_per_process(owned: Bool[Tensor, "B L"], collective: Collective) -> Float[Tensor, ""]:
    """Count the owned tokens of all processes and divide by the processes: gradients are averaged over these."""
    return collective.gather(owned.sum()[None]).sum() / collective.size


class TurnLoss(NamedTuple):
    """The loss of a micro-batch with its gradient, and what is logged of it.

    A method that averages over rollouts gives the mean over the micro-batch's; one that averages over tokens gives the
    sum divided by `LossInputs.n_tokens`, so that micro-batches of an update add up.
    """

    loss: Float[Tensor, ""]
    diagnostics: dict[str, Float[Tensor, ""]]
    log_ratio: Float[Tensor, "B L"]
    clipped_turns: Bool[Tensor, "B T"]


def turn_loss(
    logps: Float[Tensor, "B L"],
    old_logps: Float[Tensor, "B L"],
    inputs: LossInputs,
    method: Method,
    *,
    token_weight: Float[Tensor, "B L"] | None = None,
    ref_logps: Float[Tensor, "B L"] | None = None,
    kl_beta: float = 0.0,
    kl_bias_correction: bool = False,
) -> TurnLoss:
    """Compute `core.policy_loss` of `method` and, with `kl_beta`, the penalty for leaving the reference policy.

    Args:
        logps: under the policy, with gradient; anything off the policy's tokens.
        old_logps: under the policy that wrote the tokens.
        token_weight: see `core.policy_loss`.
        ref_logps: under the reference policy; needed with `kl_beta`.
        kl_bias_correction: weigh the penalty by π/π_old, see `core.kl_penalty`.
    """
    n_turns = int(inputs.n_turns)
    over_tokens = method.aggregate == "token"
    found = policy_loss(
        logps,
        old_logps,
        inputs.turn_ids,
        _per_turn(inputs.advantage, inputs.turn_ids, n_turns),
        _per_turn(inputs.clip_scale, inputs.turn_ids, n_turns),
        n_tokens=inputs.n_tokens.clamp(min=1) if over_tokens else None,
        owned=_per_turn(inputs.owned, inputs.turn_ids, n_turns),
        token_weight=token_weight,
        **method.loss_options,
    )
    loss = found.loss
    diagnostics = {
        "loss/clipped_low": found.clipped_low,
        "loss/clipped_high": found.clipped_high,
        "loss/ratio_mean": found.ratio_mean,
        "loss/approx_kl": found.approx_kl,
    }
    if kl_beta != 0.0:
        assert ref_logps is not None, "a KL penalty needs the reference's log-probabilities"
        kl = kl_penalty(logps, ref_logps, inputs.turn_ids, old_logps if kl_bias_correction else None)
        counted_ids = torch.where(inputs.owned, inputs.turn_ids, -1)
        diagnostics["kl"] = rollout_mean(kl, counted_ids)
        over = (kl * inputs.owned).sum() / inputs.n_tokens.clamp(min=1) if over_tokens else diagnostics["kl"]
        loss = loss + kl_beta * over
    return TurnLoss(loss, diagnostics, logps.detach() - old_logps, found.clipped_turns)


def _of_turn(per_turn: Tensor, turn_ids: Int[Tensor, "B L"], elsewhere: float | bool) -> Tensor:
    return torch.where(turn_ids >= 0, per_turn.gather(1, turn_ids.clamp(min=0)), elsewhere)


def _per_turn(per_token: Tensor, turn_ids: Int[Tensor, "B L"], n_turns: int) -> Tensor:
    """Return the value that the tokens of each turn share, [B, T]; 0 for a turn without tokens."""
    # Other tokens write into a column of their own, which is cut off.
    column = torch.where(turn_ids >= 0, turn_ids, n_turns)
    return per_token.new_zeros(len(per_token), n_turns + 1).scatter(1, column, per_token)[:, :n_turns]
