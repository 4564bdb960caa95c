"""List every method as a row of one table: a choice of credit, ratio, clip, aggregation and rollouts.

    METHODS["a2tgpo"].credit(batch)                 a TurnCredit
    METHODS["a2tgpo"].loss_options                  keyword arguments of policy_loss
    resolve_method("a2tgpo", alpha=0.3)             the row with another parameter

A user's own method is another row:

    register(Method("mine", TurnGroupCredit(std_floor=0.1), "my idea", ratio="turn", eps_low=3e-3, eps_high=4e-3))
    A2TGPOConfig(method="mine")

Its credit may be any `CreditRule`; parts that contradict each other raise ValueError. docs/methods.md has the formula,
the paper's values and those of the published scripts for each row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any, get_args

from a2tgpo.core import (
    CreditRule,
    EntropyCredit,
    GigpoCredit,
    IgpoCredit,
    MicaCredit,
    OutcomeCredit,
    ReleaseCredit,
    ReturnCredit,
    TreeCredit,
    TurnGroupCredit,
)
from a2tgpo.core.clip import Upper
from a2tgpo.core.gain import Likelihood
from a2tgpo.core.loss import Aggregate
from a2tgpo.core.ratio import Level
from a2tgpo.rollout.strategies import DynamicSampling, EntropyBranch, Independent, Sampling, Tree

_READ = frozenset({"gain", "state", "tree", "entropy"})
"""Names of what a credit rule may read beside outcome, group and turns."""


@dataclass(frozen=True)
class Method:
    """Hold one method.

    Attributes:
        name: the key in `METHODS` and in a recipe, and a folder of a comparison: letters, digits and `+-._`.
        credit: from rewards and gains to advantages; the standard deviation it divides by is a property of it.
        source: where its numbers come from.
        ratio, eps_low, eps_high, upper, aggregate, dual_clip: see `core.policy_loss`.
        sampling: how a prompt's rollouts are made.
        overlong: the share of the token limit over which the length penalty grows, see `core.overlong_penalty`.
        kl_beta: the coefficient β of the KL penalty towards the policy training started from (`core.kl_penalty`), as
            published; a trainer takes it where its user says nothing, and needs a reference model where it is not 0.
        likelihood: what a gain is a difference of: the "probability" of the gold answer, as in A²TGPO's and IGPO's
            papers, or its mean "log_probability", as in their scripts. Read where `signal` is true.
        state_similarity: how much alike, in (0, 1], two observations must be to count as one anchor state; 1 asks for
            equality. Read where the credit reads states.

    Raises:
        ValueError: parts that contradict each other.
    """

    name: str
    credit: CreditRule
    source: str
    ratio: Level = "token"
    eps_low: float = 0.2
    eps_high: float = 0.2
    upper: Upper = "clip"
    aggregate: Aggregate = "rollout"
    sampling: Sampling = field(default_factory=Independent)
    overlong: float | None = None
    dual_clip: float | None = None
    kl_beta: float = 0.0
    likelihood: Likelihood = "probability"
    state_similarity: float = 1.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            raise ValueError(f"name is {self.name!r}; pass letters, digits and +-._, beginning with a letter or digit")
        for name, value, choices in (
            ("ratio", self.ratio, get_args(Level)),
            ("upper", self.upper, get_args(Upper)),
            ("aggregate", self.aggregate, get_args(Aggregate)),
            ("likelihood", self.likelihood, get_args(Likelihood)),
        ):
            if value not in choices:
                raise ValueError(f"{self.name}: {name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
        if not (0 <= self.eps_low < 1 and self.eps_high >= 0):
            raise ValueError(
                f"{self.name}: the clip range is 1 − {self.eps_low} to 1 + {self.eps_high}; "
                "pass eps_low in [0, 1) and eps_high of at least 0"
            )
        if self.dual_clip is not None and not self.dual_clip > 1 + self.eps_high:
            raise ValueError(
                f"{self.name}: dual_clip is {self.dual_clip}, inside the clip range; pass more than "
                f"1 + {self.eps_high}, or None"
            )
        if not 0 <= self.kl_beta < math.inf:
            raise ValueError(f"{self.name}: kl_beta is {self.kl_beta}; pass at least 0, which leaves the penalty out")
        if not 0 < self.state_similarity <= 1:
            raise ValueError(
                f"{self.name}: state_similarity is {self.state_similarity}; pass a share above 0 and up to 1"
            )
        if self.overlong is not None and not 0 < self.overlong <= 1:
            raise ValueError(f"{self.name}: overlong is {self.overlong}; pass a share above 0 and up to 1, or None")
        self._check_credit()
        self._check_sampling()

    def _check_credit(self) -> None:
        if isinstance(self.credit, type) or not is_dataclass(self.credit) or not hasattr(self.credit, "reads"):
            raise ValueError(
                f"{self.name}: credit is {self.credit!r}; pass an instance of a frozen dataclass that has `reads`, "
                "such as core.OutcomeCredit()"
            )
        if unknown := sorted(set(self.credit.reads) - _READ):
            raise ValueError(f"{self.name}: credit reads {', '.join(unknown)}; there are {', '.join(sorted(_READ))}")

    def _check_sampling(self) -> None:
        if "tree" in self.credit.reads and not isinstance(self.sampling, Tree):
            raise ValueError(
                f"{self.name}: credit {self.credit} compares the leaves of a tree, and sampling {self.sampling} grows "
                "none; pass sampling=Tree(...) or another credit"
            )
        if isinstance(self.sampling, DynamicSampling) and self.signal:
            raise ValueError(
                f"{self.name}: sampling {self.sampling} drops prompts of equal rewards, from which credit "
                f"{self.credit} still learns through gains; pass sampling=Independent() or credit=OutcomeCredit()"
            )
        if self.shares_turns and self.ratio == "sequence":
            raise ValueError(
                f"{self.name}: sampling {self.sampling} shares turns, which have another ratio in each rollout through "
                "them if it is the sequence's; pass ratio='turn' or 'token', or sampling=Independent()"
            )

    @property
    def signal(self) -> bool:
        """Tell if the credit reads the gain of each turn; without, nothing needs to be scored."""
        return "gain" in self.credit.reads

    @property
    def shares_turns(self) -> bool:
        """Tell if rollouts share turns, which are then computed once (`core.share_turns`)."""
        return isinstance(self.sampling, Tree | EntropyBranch)

    @property
    def paper(self) -> dict[str, str]:
        """Return title and arXiv number of the source, and an entry for a bibliography; empty for a row of our own."""
        found = re.match(r"(?:after |.*of )?(?P<title>[^,;(]+?)(?: \(.*?\))?, arXiv (?P<id>\d{4}\.\d{5})", self.source)
        if found is None:
            return {}
        title, number = found["title"], found["id"]
        entry = (
            f"@misc{{arxiv{number},\n  title = {{{title}}},\n  eprint = {{{number}}},\n  archivePrefix = {{arXiv}}\n}}"
        )
        return {"title": title, "id": number, "citation": entry}

    @property
    def loss_options(self) -> dict[str, Any]:
        """Return keyword arguments of `core.policy_loss`."""
        names = ("ratio", "eps_low", "eps_high", "upper", "aggregate", "dual_clip")
        return {name: getattr(self, name) for name in names}


# What verl's GRPO divides by, and the code of those built on it.
_SAMPLE = OutcomeCredit(std="sample")

_PAPER = Method("a2tgpo", TurnGroupCredit(), "A²TGPO, arXiv 2605.06200", ratio="turn", eps_low=3e-3, eps_high=4e-3)
_IGPO = Method("igpo", IgpoCredit(), "IGPO, arXiv 2510.14967", aggregate="token", kl_beta=0.001)

_ROWS = (
    Method("grpo", _SAMPLE, "DeepSeekMath, arXiv 2402.03300; KL as in A²TGPO's baseline", kl_beta=0.001),
    Method(
        "dapo",
        _SAMPLE,
        "DAPO, arXiv 2503.14476",
        eps_high=0.28,
        aggregate="token",
        sampling=DynamicSampling(),
        overlong=0.2,
    ),
    Method("gspo", _SAMPLE, "GSPO, arXiv 2507.18071", ratio="sequence", eps_low=3e-4, eps_high=4e-4),
    Method(
        "gigpo",
        GigpoCredit(norm="std", std="sample"),
        "GiGPO, arXiv 2505.10978; its runs with search",
        kl_beta=0.001,
        state_similarity=0.9,
    ),
    _IGPO,
    Method("mica", MicaCredit(), "after MICA, arXiv 2603.06194", aggregate="token"),
    Method(
        "tree-grpo",
        TreeCredit(std="sample"),
        "Tree-GRPO, arXiv 2509.21240",
        aggregate="token",
        sampling=Tree(),
        kl_beta=0.001,
    ),
    Method(
        "aepo",
        EntropyCredit(std="sample"),
        "AEPO, arXiv 2510.14545",
        upper="keep_gradient",
        aggregate="token",
        sampling=EntropyBranch(),
    ),
    # The paper's ablation climbs from igpo to a2tgpo in three steps, of which the last is a2tgpo. That the first two
    # keep IGPO's ratio, clip and token mean, and its KL penalty is gone, is an inference: docs/methods.md.
    replace(
        _IGPO,
        name="igpo+tg",
        credit=TurnGroupCredit(rescale=False, beta=0.0),
        source="ablation of A²TGPO (table 2), arXiv 2605.06200: turn groups",
        kl_beta=0.0,
    ),
    replace(
        _IGPO,
        name="igpo+tg+sqrt",
        credit=TurnGroupCredit(beta=0.0),
        source="ablation of A²TGPO (table 2), arXiv 2605.06200: turn groups and √n",
        kl_beta=0.0,
    ),
    _PAPER,
    replace(
        _PAPER,
        name="a2tgpo-fixed-clip",
        credit=TurnGroupCredit(beta=0.0),
        source="ablation of A²TGPO (figure 9), arXiv 2605.06200: β = 0",
    ),
    replace(
        _PAPER,
        name="a2tgpo-release",
        credit=ReleaseCredit(),
        source="released code of A²TGPO, arXiv 2605.06200",
        aggregate="token",
        likelihood="log_probability",
    ),
    # With igpo+tg+sqrt, which has a2tgpo's advantages with igpo's ratio and clip, it tells credit from step length.
    replace(
        _PAPER,
        name="igpo+turn-clip",
        credit=IgpoCredit(),
        source="this project: IGPO's credit with A²TGPO's ratio and clip",
    ),
    replace(
        _PAPER,
        name="a2tgpo-absorbing",
        credit=TurnGroupCredit(baseline="absorbing"),
        source="this project, docs/baselines.md",
    ),
    replace(
        _PAPER,
        name="a2tgpo-floor",
        credit=TurnGroupCredit(std_floor=0.05),
        source="this project: a floor under small spreads",
    ),
    Method("turn-returns", ReturnCredit(), "this project: turn rewards as they are"),
)

_TABLE = {method.name: method for method in _ROWS}

METHODS: Mapping[str, Method] = MappingProxyType(_TABLE)


def register(method: Method) -> Method:
    """Add a row to `METHODS`, in this process; every process of a training script has to.

    Raises:
        ValueError: there is a row of that name.
    """
    if method.name in _TABLE:
        raise ValueError(f"method {method.name!r} has a row already; give yours another name")
    _TABLE[method.name] = method
    return method


def resolve_method(name: str, **changes: Any) -> Method:
    """Return the row `name`, with parameters of the row or of its credit rule changed.

        resolve_method("a2tgpo", alpha=0.3, aggregate="token")

    Args:
        name: a key of `METHODS`.
        changes: new values by the name of the parameter; None leaves the row's, so that a trainer can pass on what its
            user left out.

    Raises:
        ValueError: no such row, a parameter that neither the row nor its credit rule has, or one out of its range.
    """
    if name not in _TABLE:
        raise ValueError(
            f"method={name!r}: choose one of {', '.join(map(repr, _TABLE))}, or register(...) your own, in a module "
            "that is imported first (a recipe's plugins, --import MODULE)"
        )
    row = _TABLE[name]
    of_credit = [f.name for f in fields(row.credit)]  # type: ignore[arg-type]  # every rule is a dataclass
    of_row = [f.name for f in fields(row) if f.name not in ("name", "credit", "source")]
    given = {key: value for key, value in changes.items() if value is not None}
    for key, value in given.items():
        if key not in of_credit + of_row:
            raise ValueError(
                f"{key}={value!r}: method {name!r} has no such parameter; it has {', '.join(of_credit + of_row)}"
            )
    credit = replace(row.credit, **{k: v for k, v in given.items() if k in of_credit})  # type: ignore[type-var]
    return replace(row, credit=credit, **{k: v for k, v in given.items() if k not in of_credit})
