"""The mathematics of A²TGPO (arXiv 2605.06200) and of its neighbours on padded tensors; imports torch and nothing else.

    information_gain ── normalize_turn_groups ──┬── accumulate ──┐
    normalize_outcome ──────────────────────────┼────────────────┴── turn_credit ──┐
                                                └── clip_scale ────────┘           │
    TurnBatch ── a CreditRule (TurnGroupCredit is turn_credit; six others) ────────┼── count_once ──┐
                                                                                   └────────────────┴── policy_loss
    turn_ids ── turn_ratio ───────────────────────────────────────────────────────────────────────────────┘

B rollouts, T turns, L completion tokens. Everything is vectorised and never waits for a GPU; results are
float32 whatever comes in, except that float64 stays float64.
"""

from a2tgpo.core.accumulate import accumulate
from a2tgpo.core.clip import clip_scale
from a2tgpo.core.credit import (
    CreditRule,
    EntropyCredit,
    GigpoCredit,
    IgpoCredit,
    MicaCredit,
    OutcomeCredit,
    TreeCredit,
    TurnBatch,
    TurnCredit,
    TurnGroupCredit,
    turn_credit,
)
from a2tgpo.core.gain import information_gain
from a2tgpo.core.groups import normalize_outcome, normalize_turn_groups
from a2tgpo.core.kl import kl_penalty
from a2tgpo.core.loss import PolicyLoss, policy_loss, rollout_mean
from a2tgpo.core.overlong import overlong_penalty
from a2tgpo.core.ratio import turn_ratio
from a2tgpo.core.shared import count_once
from a2tgpo.core.turns import keep_turns, turn_ids, turn_mean

__all__ = [
    "CreditRule",
    "EntropyCredit",
    "GigpoCredit",
    "IgpoCredit",
    "MicaCredit",
    "OutcomeCredit",
    "PolicyLoss",
    "TreeCredit",
    "TurnBatch",
    "TurnCredit",
    "TurnGroupCredit",
    "accumulate",
    "clip_scale",
    "count_once",
    "information_gain",
    "keep_turns",
    "kl_penalty",
    "normalize_outcome",
    "normalize_turn_groups",
    "overlong_penalty",
    "policy_loss",
    "rollout_mean",
    "turn_credit",
    "turn_ids",
    "turn_mean",
    "turn_ratio",
]
