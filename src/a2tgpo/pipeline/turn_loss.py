"""Compute the loss of one micro-batch from the credit that its turns were given when they were generated.

BatchCredit ── LossInputs.of ── [B, L] per token ── shuffled, packed, sharded by the engine ── turn_loss
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from a2tgpo.core import kl_penalty, policy_loss, turn_ids
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
        max_turns     2                                    turns of any rollout at most, on the CPU
        n_tokens      4.                                   what a token mean divides by; 0 until the engine knows it

    Attributes:
        n_tokens: tokens of the update that the micro-batch belongs to, a shared one once for each rollout through it,
            divided by the processes whose gradients are averaged. Read by methods that average over tokens.
        negative, weight: only where rollouts share turns: the negative part of the advantage, of which `advantage` is
            then the positive one, and in how many rollouts each token counts, 0 where another row carries it (owner
            mask); see `core.SharedCredit`.
    """

    turn_ids: Int[Tensor, "B L"]
    advantage: Float[Tensor, "B L"]
    clip_scale: Float[Tensor, "B L"]
    max_turns: Int[Tensor, ""]
    n_tokens: Float[Tensor, ""]
    negative: Float[Tensor, "B L"] | None = None
    weight: Float[Tensor, "B L"] | None = None

    @classmethod
    def of(cls, credit: BatchCredit, model_mask: Bool[Tensor, "B L"]) -> LossInputs:
        """Spread this process's `credit` over the tokens that the policy wrote; rollouts not valid are left out."""
        ids, shared = turn_ids(model_mask & credit.valid[:, None]), credit.shared
        max_turns, n_tokens = torch.tensor(credit.advantage.size(1)), torch.zeros((), device=ids.device)
        if shared is None:
            advantage, scale = _of_turn(credit.advantage, ids, 0.0), _of_turn(credit.clip_scale, ids, 1.0)
            return cls(ids, advantage, scale, max_turns, n_tokens)
        return cls(
            ids,
            _of_turn(shared.positive, ids, 0.0),
            _of_turn(shared.clip_scale, ids, 1.0),
            max_turns,
            n_tokens,
            negative=_of_turn(shared.negative, ids, 0.0),
            weight=_of_turn(shared.weight, ids, 0.0),
        )

    @property
    def token_weight(self) -> Float[Tensor, "B L"]:
        """Count each token: 1 on the policy's, or in how many rollouts it counts."""
        return (self.turn_ids >= 0).float() if self.weight is None else self.weight

    def columns(self) -> dict[str, Tensor]:
        """Return the tensors under the names they have among an engine's columns."""
        found = {column: getattr(self, name) for name, column in _COLUMNS.items()}
        return {column: value for column, value in found.items() if value is not None}

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> LossInputs:
        """Read them back from an engine's columns.

        An advantage that a user put in place of ours may also be one number per rollout, `[B]`.
        """
        given = {name: columns[column] for name, column in _COLUMNS.items() if column in columns}
        found = cls(**given)
        if found.advantage.dim() == 1:
            return replace(found, advantage=found.advantage[:, None].expand(found.turn_ids.shape))
        return found

    def over_tokens(self, n_tokens: Float[Tensor, ""]) -> LossInputs:
        """Return the same inputs for an update of `n_tokens` tokens."""
        return replace(self, n_tokens=n_tokens)


_COLUMNS = {
    "turn_ids": "turn_ids",
    "advantage": "advantages",
    "clip_scale": "turn_clip_scale",
    "max_turns": "turn_columns",
    "n_tokens": "turn_update_tokens",
    "negative": "turn_negative_advantages",
    "weight": "turn_weight",
}
"""Field of `LossInputs` -> name of an engine's column; `advantages` is the name that TRL and verl have for it."""

TOKENS_COLUMN = _COLUMNS["n_tokens"]
TOKEN_COLUMNS = tuple(_COLUMNS[name] for name in ("turn_ids", "advantage", "clip_scale", "negative", "weight"))
"""Engine columns that are [B, L] and must be cut, padded and shuffled as the tokens are."""


def tokens_per_process(inputs: Sequence[LossInputs], collective: Collective) -> Float[Tensor, ""]:
    """Count the tokens of all `inputs` in all processes and divide by the processes: gradients are averaged over
    these."""
    here = torch.stack([one.token_weight.sum() for one in inputs]).sum()
    return collective.gather(here[None]).sum() / collective.size


class TurnLoss(NamedTuple):
    """Hold the loss of a micro-batch with its gradient, and what is logged of it.

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
    ids, n_turns = inputs.turn_ids, int(inputs.max_turns)
    penalty = None
    if kl_beta != 0.0:
        assert ref_logps is not None, "a KL penalty needs the reference's log-probabilities"
        penalty = kl_beta * kl_penalty(logps, ref_logps, ids, old_logps if kl_bias_correction else None)
    found = policy_loss(
        logps,
        old_logps,
        ids,
        _per_turn(inputs.advantage, ids, n_turns),
        _per_turn(inputs.clip_scale, ids, n_turns),
        n_tokens=inputs.n_tokens.clamp(min=1) if method.aggregate == "token" else None,
        token_weight=token_weight,
        negative=None if inputs.negative is None else _per_turn(inputs.negative, ids, n_turns),
        turn_weight=None if inputs.weight is None else _per_turn(inputs.weight, ids, n_turns),
        penalty=penalty,
        **method.loss_options,
    )
    low, high = found.clipped_low, found.clipped_high
    if method.ratio == "sequence":  # of rollouts, as TRL counts them
        low, high = found.clipped_low_by_rollout.mean(), found.clipped_high_by_rollout.mean()
    diagnostics = {
        "loss/clipped_low": found.clipped_low,
        "loss/clipped_high": found.clipped_high,
        "loss/ratio_mean": found.ratio_mean,
        "loss/approx_kl": found.approx_kl,
        "clip_ratio/low_mean": low,
        "clip_ratio/high_mean": high,
        "clip_ratio/region_mean": low + high,
        "clip_ratio/low_min": found.clipped_low_by_rollout.min(),
        "clip_ratio/high_max": found.clipped_high_by_rollout.max(),
    }
    if penalty is not None:
        weight = inputs.token_weight
        per_token = torch.where(weight > 0, penalty.detach() / kl_beta, 0) * weight
        diagnostics["kl"] = per_token.sum() / weight.sum().clamp(min=1)
    return TurnLoss(found.loss, diagnostics, logps.detach() - old_logps, found.clipped_turns)


def _of_turn(per_turn: Tensor, turn_ids: Int[Tensor, "B L"], elsewhere: float) -> Tensor:
    return torch.where(turn_ids >= 0, per_turn.gather(1, turn_ids.clamp(min=0)), elsewhere)


def _per_turn(per_token: Tensor, turn_ids: Int[Tensor, "B L"], n_turns: int) -> Tensor:
    """Return the value that the tokens of each turn share, its first token's, [B, T]; 0 for a turn without tokens."""
    before = torch.nn.functional.pad(turn_ids[:, :-1], (1, 0), value=-1)
    # Every other token writes into a column of its own, which is cut off: no two write the same place.
    column = torch.where((turn_ids >= 0) & (turn_ids != before), turn_ids, n_turns)
    return per_token.new_zeros(len(per_token), n_turns + 1).scatter(1, column, per_token)[:, :n_turns]
