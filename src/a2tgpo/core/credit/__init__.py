"""Credit rules: how a rollout's signals become one advantage per turn.

    TurnBatch ──┬── OutcomeCredit     the outcome                                    GRPO, DAPO, GSPO
                ├── TurnGroupCredit   + gains compared at equal depth, Σ/√n          A²TGPO and its ablations
                ├── IgpoCredit        + gains compared over the prompt, Σ            IGPO
                ├── MicaCredit        + half gain, half return                       MICA
                ├── GigpoCredit       + return compared from equal states            GiGPO
                ├── TreeCredit        + the outcome compared within the tree         Tree-GRPO
                └── EntropyCredit     × how unsure the policy was                    AEPO
                                                                    └── TurnCredit

A rule is a frozen dataclass of its parameters, called on a batch; `rule.reads` says what the batch must hold.
"""

from a2tgpo.core.credit.aepo import EntropyCredit
from a2tgpo.core.credit.batch import CreditRule, TurnBatch, TurnCredit
from a2tgpo.core.credit.gigpo import GigpoCredit
from a2tgpo.core.credit.igpo import IgpoCredit
from a2tgpo.core.credit.mica import MicaCredit
from a2tgpo.core.credit.outcome import OutcomeCredit
from a2tgpo.core.credit.tree import TreeCredit
from a2tgpo.core.credit.turn_group import TurnGroupCredit, turn_credit

__all__ = [
    "CreditRule",
    "EntropyCredit",
    "GigpoCredit",
    "IgpoCredit",
    "MicaCredit",
    "OutcomeCredit",
    "TreeCredit",
    "TurnBatch",
    "TurnCredit",
    "TurnGroupCredit",
    "turn_credit",
]
