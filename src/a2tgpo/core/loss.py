"""Compute the clipped policy loss over turns."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_choice, check_range, check_shapes, check_values, full_precision
from a2tgpo.core.clip import Upper, clipped_objective, held_back
from a2tgpo.core.ratio import Level, k3, log_ratio, segments
from a2tgpo.core.turns import check_turn_ids, keep_turns, to_tokens, turn_sum

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

Aggregate = Literal["rollout", "token"]


class PolicyLoss(NamedTuple):
    """Hold the loss, and what happened in it: detached, on the device, over model tokens (0 if there are none).

    A token is clipped where a bound holds its gradient back: its ratio is above the upper bound with a positive
    advantage, below the lower bound with a negative one, or above `dual_clip` with a negative one.
    """

    loss: Float[Tensor, ""]
    clipped_low: Float[Tensor, ""]
    """Share of model tokens clipped at the lower bound."""
    clipped_high: Float[Tensor, ""]
    """Share of model tokens clipped at an upper bound."""
    clipped_turns: Bool[Tensor, "B T"]
    """Turns with a clipped token."""
    clipped_low_by_rollout: Float[Tensor, " B"]
    """Share of each rollout's model tokens clipped at the lower bound."""
    clipped_high_by_rollout: Float[Tensor, " B"]
    """Share of each rollout's model tokens clipped at an upper bound."""
    ratio_mean: Float[Tensor, ""]
    approx_kl: Float[Tensor, ""]
    """KL(π_old ‖ π) per token in nats, by Schulman's k3 estimate."""


def policy_loss(
    logp: Float[Tensor, "B L"],
    old_logp: Float[Tensor, "B L"],
    turn_ids: Int[Tensor, "B L"],
    advantage: Float[Tensor, "B T"],
    clip_scale: Float[Tensor, "B T"],
    *,
    ratio: Level = "turn",
    eps_low: float = 3e-3,
    eps_high: float = 4e-3,
    upper: Upper = "clip",
    aggregate: Aggregate = "rollout",
    n_tokens: Tensor | int | None = None,
    owned: Bool[Tensor, "B T"] | None = None,
    token_weight: Float[Tensor, "B L"] | None = None,
    dual_clip: float | None = None,
    negative: Float[Tensor, "B T"] | None = None,
    turn_weight: Float[Tensor, "B T"] | None = None,
    penalty: Float[Tensor, "B L"] | None = None,
) -> PolicyLoss:
    """Return −mean over rollouts of Σ w·min(s·Â, clip(s, 1 − c·ε_low, 1 + c·ε_high)·Â) / |tokens| (A²TGPO, Eq. 12).

    Args:
        logp: log-probabilities under the policy; anything, NaN included, off model tokens.
        old_logp: the same under the policy that wrote the tokens.
        turn_ids: the turn of each token, -1 off model tokens.
        advantage: Â of each turn.
        clip_scale: c of each turn.
        ratio: s is the ratio of the token's turn, of the token, or of the whole sequence of model tokens.
        eps_low: clip range below 1, before scaling.
        eps_high: clip range above 1, before scaling.
        upper: "clip" drops the gradient above the upper bound, "keep_gradient" bounds it (AEPO).
        aggregate: "rollout" gives every rollout the same weight, "token" every token. A rollout without
            model tokens contributes 0 and counts as a rollout, so that the mean over equal micro-batches is
            the mean over the batch.
        n_tokens: what the "token" sum is divided by, by default the tokens counted here. Micro-batches differ
            in tokens: give each the number of the whole update, and their losses sum to the update's.
        owned: deprecated, and gone with 0.3: turns that count in the loss and its diagnostics, by default all (see
            `count_once`). The others still belong to the sequence ratio. Use `turn_weight`.
        token_weight: w of each token, by default 1 as in the paper: the importance of tokens that another distribution
            than `old_logp` drew, such as an inference engine's. A constant, also where it is 0; neither ratios nor
            |tokens| know of it. Anything, NaN included, off model tokens.
        dual_clip: where Â < 0 the objective is at least this times Â, so that a ratio beyond it has no gradient
            (arXiv 1912.09729); above 1 + eps_high, 3 in most code built on verl. None, the default, leaves it out.
        negative: a second advantage of each turn, of which the objective is added: `SharedCredit.negative`, where
            `advantage` is the positive part.
        turn_weight: in how many rollouts each turn's tokens count, `SharedCredit.weight`; 0 where another row
            counts them. Advantages hold it already; here it weighs the tokens in the default of `n_tokens`, in
            `penalty` and in the diagnostics. "rollout" then divides by all model tokens of the row.
        penalty: added for each model token, averaged as the objective is: β·`kl_penalty(...)`.

    Returns:
        The loss with gradient towards `logp` (and `penalty`) alone, and diagnostics.

    Raises:
        ValueError: mismatched shapes, an empty turn, a turn without an advantage, a bad option.
    """
    if owned is not None:
        warnings.warn("policy_loss(owned=) goes with 0.3; use turn_weight=", DeprecationWarning, stacklevel=2)
    _check_options(ratio, eps_low, eps_high, upper, aggregate, n_tokens, dual_clip)
    check_shapes(
        logp=(logp, "float B L"),
        old_logp=(old_logp, "float B L"),
        turn_ids=(turn_ids, "long B L"),
        advantage=(advantage, "float B T"),
        clip_scale=(clip_scale, "float B T"),
    )
    width = advantage.shape[1]
    check_turn_ids(turn_ids, width)
    change = log_ratio(logp, old_logp, turn_ids)
    log_s, size = segments(change, turn_ids, width, ratio)

    def on_segments(per_turn: Float[Tensor, "B T"]) -> Float[Tensor, "B S"]:
        return to_tokens(per_turn, turn_ids) if ratio == "token" else per_turn

    share = _share(advantage, owned, turn_weight)
    counted_ids = turn_ids if share is None else keep_turns(turn_ids, share > 0)
    weight = size if share is None else size * on_segments(share)
    counted = weight > 0
    summed = size if token_weight is None else _summed(token_weight, counted_ids, width, ratio)

    def of_counted(per_turn: Float[Tensor, "B T"]) -> Float[Tensor, "B S"]:
        # A turn without tokens may hold anything, and 0 · NaN is NaN.
        return torch.where(counted, on_segments(full_precision(per_turn).detach()), 0)

    parts = [of_counted(advantage)]
    if negative is not None:
        check_shapes(advantage=(advantage, "float B T"), negative=(negative, "float B T"))
        parts.append(of_counted(negative))
    c = of_counted(clip_scale)
    low, high = 1 - c * eps_low, 1 + c * eps_high
    total = summed * sum(clipped_objective(log_s, part, low, high, upper, dual_clip) for part in parts)
    divided_by = size if turn_weight is not None else weight
    loss = -_averaged(total, divided_by, weight, aggregate, n_tokens)
    token_share = (turn_ids >= 0).to(change.dtype) if share is None else to_tokens(share, turn_ids)
    if penalty is not None:
        check_shapes(turn_ids=(turn_ids, "long B L"), penalty=(penalty, "float B L"))
        per_token = torch.where(token_share > 0, full_precision(penalty), 0) * token_share
        loss = loss + _averaged(per_token, divided_by, weight, aggregate, n_tokens)
    with torch.no_grad():
        above, below = held_back(log_s, parts, low, high, dual_clip)
        clipped = above | below
        return PolicyLoss(
            loss=loss,
            clipped_low=_mean(below, weight),
            clipped_high=_mean(above, weight),
            clipped_turns=turn_sum(clipped.long(), counted_ids, width) > 0 if ratio == "token" else clipped,
            clipped_low_by_rollout=(below * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1),
            clipped_high_by_rollout=(above * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1),
            ratio_mean=_mean(log_s.exp(), weight),
            approx_kl=_mean(k3(change), token_share),
        )


def rollout_mean(per_token: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"]) -> Float[Tensor, ""]:
    """Return the mean over rollouts of the mean over each one's model tokens; a rollout without any contributes 0.

    Raises:
        ValueError: mismatched shapes.
    """
    check_shapes(per_token=(per_token, "float B L"), turn_ids=(turn_ids, "long B L"))
    is_model = turn_ids >= 0
    kept = torch.where(is_model, per_token, 0)
    return (kept.sum(dim=1) / is_model.sum(dim=1).clamp(min=1)).mean()


def _share(
    advantage: Float[Tensor, "B T"], owned: Bool[Tensor, "B T"] | None, turn_weight: Float[Tensor, "B T"] | None
) -> Float[Tensor, "B T"] | None:
    """Return how often each turn's tokens count; None where all count once."""
    share: Tensor | None = None
    if owned is not None:
        check_shapes(advantage=(advantage, "float B T"), owned=(owned, "bool B T"))
        share = owned.to(full_precision(advantage).dtype)
    if turn_weight is not None:
        check_shapes(advantage=(advantage, "float B T"), turn_weight=(turn_weight, "float B T"))
        rule = "a turn counts in no rollout or in some; 0 leaves it out"
        check_values("turn_weight", turn_weight, (turn_weight >= 0) & turn_weight.isfinite(), rule)
        share = full_precision(turn_weight).detach() * (1 if share is None else share)
    return share


def _averaged(
    total: Float[Tensor, "B N"],
    divided_by: Float[Tensor, "B S"],
    weight: Float[Tensor, "B S"],
    aggregate: Aggregate,
    n_tokens: Tensor | int | None,
) -> Float[Tensor, ""]:
    """Average sums over segments or tokens as `aggregate` says."""
    if aggregate == "rollout":
        return (total.sum(dim=1) / divided_by.sum(dim=1).clamp(min=1)).mean()
    return total.sum() / (weight.sum().clamp(min=1) if n_tokens is None else n_tokens)


def _summed(
    token_weight: Float[Tensor, "B L"], turn_ids: Int[Tensor, "B L"], width: int, ratio: Level
) -> Float[Tensor, "B S"]:
    """Return the weight of each segment in the sum, in place of its number of tokens."""
    check_shapes(token_weight=(token_weight, "float B L"), turn_ids=(turn_ids, "long B L"))
    per_token = torch.where(turn_ids >= 0, full_precision(token_weight).detach(), 0)
    return per_token if ratio == "token" else turn_sum(per_token, turn_ids, width)


def _mean(value: Tensor, weight: Float[Tensor, "B S"]) -> Float[Tensor, ""]:
    return (value * weight).sum() / weight.sum().clamp(min=1)


def _check_options(
    ratio: Level,
    eps_low: float,
    eps_high: float,
    upper: Upper,
    aggregate: Aggregate,
    n_tokens: Tensor | int | None,
    dual_clip: float | None,
) -> None:
    check_choice("ratio", ratio, get_args(Level))
    check_choice("upper", upper, get_args(Upper))
    check_choice("aggregate", aggregate, get_args(Aggregate))
    check_range("eps_low", eps_low, 0.0, 1.0)
    check_range("eps_high", eps_high, 0.0, float("inf"))
    if dual_clip is not None:
        check_range("dual_clip", dual_clip, 1.0 + eps_high, float("inf"))
    if n_tokens is not None and aggregate != "token":
        raise ValueError(
            f"n_tokens is {n_tokens}; it divides a sum over tokens, so leave it out or pass aggregate='token'"
        )
    if isinstance(n_tokens, Tensor):
        check_shapes(n_tokens=(n_tokens, "float"))
        check_values("n_tokens", n_tokens, n_tokens >= 1, "count the model tokens of all micro-batches together")
    elif n_tokens is not None:
        check_range("n_tokens", n_tokens, 1, float("inf"))
