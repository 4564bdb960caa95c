"""Compute A²TGPO (arXiv 2605.06200) and its neighbours on padded tensors; imports torch and nothing else.

    information_gain ── normalize_turn_groups ──┬── accumulate ──┐
    normalize_outcome ──────────────────────────┼────────────────┴── turn_credit ──┐
                                                └── clip_scale ────────┘           │
    TurnBatch ── a CreditRule ─────────────────────────────────────────────────────┼── share_turns ──┐
                                                                                   └─────────────────┴── policy_loss
    turn_ids ── turn_ratio ────────────────────────────────────────────────────────────────────────────────┘

A credit rule is a frozen dataclass of its parameters, called on a batch; `rule.reads` says what the batch must hold:

    TurnBatch ──┬── OutcomeCredit     the outcome                                    GRPO, DAPO, GSPO
                ├── TurnGroupCredit   + gains compared at equal depth, Σ/√n          A²TGPO and its ablations
                ├── ReleaseCredit     the same as its authors' code computes it      A²TGPO's release
                ├── IgpoCredit        + gains compared over the prompt, Σ            IGPO
                ├── MicaCredit        half gain, half return                         MICA
                ├── ReturnCredit      + gains as they are, Σ                         turn-returns
                ├── GigpoCredit       + return compared from equal anchor states     GiGPO
                ├── TreeCredit        + the outcome compared within the tree         Tree-GRPO
                └── EntropyCredit     × how unsure the policy was                    AEPO
                                                                    └── TurnCredit

B rollouts, T turns, L completion tokens. Everything is vectorised and never waits for a GPU; results are
float32 whatever comes in, except that float64 stays float64.
"""

from a2tgpo.core.clip import clip_scale
from a2tgpo.core.gain import accumulate, information_gain
from a2tgpo.core.gain_credit import IgpoCredit, MicaCredit, ReturnCredit
from a2tgpo.core.gigpo import GigpoCredit
from a2tgpo.core.groups import normalize_outcome, normalize_turn_groups
from a2tgpo.core.loss import PolicyLoss, policy_loss, rollout_mean
from a2tgpo.core.outcome_credit import EntropyCredit, OutcomeCredit, TreeCredit, overlong_penalty
from a2tgpo.core.ratio import kl_penalty, turn_ratio
from a2tgpo.core.release_credit import ReleaseCredit
from a2tgpo.core.shared import SharedCredit, count_once, share_turns
from a2tgpo.core.turn_batch import CreditRule, TurnBatch, TurnCredit
from a2tgpo.core.turn_group import TurnGroupCredit, turn_credit
from a2tgpo.core.turns import keep_turns, turn_ids, turn_mean

__all__ = [
    "CreditRule",
    "EntropyCredit",
    "GigpoCredit",
    "IgpoCredit",
    "MicaCredit",
    "OutcomeCredit",
    "PolicyLoss",
    "ReleaseCredit",
    "ReturnCredit",
    "SharedCredit",
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
    "share_turns",
    "turn_credit",
    "turn_ids",
    "turn_mean",
    "turn_ratio",
]
