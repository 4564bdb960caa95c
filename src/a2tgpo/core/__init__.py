"""The mathematics of A²TGPO (arXiv 2605.06200) on padded tensors; imports torch and nothing else.

    information_gain ── normalize_turn_groups ──┬── accumulate ──┐
    normalize_outcome ──────────────────────────┼────────────────┴── turn_credit ──┐
                                                └── clip_scale ────────┘           ├── policy_loss
    turn_ids ── turn_ratio ────────────────────────────────────────────────────────┘

B rollouts, T turns, L completion tokens. Everything is vectorised and never waits for a GPU; results are
float32 whatever comes in, except that float64 stays float64.
"""

from a2tgpo.core.clip import clip_scale
from a2tgpo.core.credit import TurnCredit, accumulate, turn_credit
from a2tgpo.core.gain import information_gain
from a2tgpo.core.groups import normalize_outcome, normalize_turn_groups
from a2tgpo.core.kl import kl_penalty
from a2tgpo.core.loss import PolicyLoss, policy_loss, rollout_mean
from a2tgpo.core.ratio import turn_ratio
from a2tgpo.core.turns import to_tokens, turn_ids, turn_sum

__all__ = [
    "PolicyLoss",
    "TurnCredit",
    "accumulate",
    "clip_scale",
    "information_gain",
    "kl_penalty",
    "normalize_outcome",
    "normalize_turn_groups",
    "policy_loss",
    "rollout_mean",
    "to_tokens",
    "turn_credit",
    "turn_ids",
    "turn_ratio",
    "turn_sum",
]
