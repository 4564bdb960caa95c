"""Every method as a row of one table: a choice of credit, ratio, clip, aggregation and rollouts.

    METHODS["a2tgpo"].credit(batch)     a TurnCredit
    METHODS["a2tgpo"].loss_options      keyword arguments of policy_loss

A user's own method is another row:

    register(Method("mine", TurnGroupCredit(std_floor=0.1), "my idea", ratio="turn", eps_low=3e-3, eps_high=4e-3))
    A2TGPOConfig(method="mine")

Its credit may be any `CreditRule`; parts that contradict each other raise ValueError.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, get_args

from a2tgpo.core import (
    CreditRule,
    EntropyCredit,
    GigpoCredit,
    IgpoCredit,
    MicaCredit,
    OutcomeCredit,
    TreeCredit,
    TurnGroupCredit,
)
from a2tgpo.core.clip import Upper
from a2tgpo.core.loss import Aggregate
from a2tgpo.core.ratio import Level
from a2tgpo.rollout.strategies import DynamicSampling, EntropyBranch, Independent, Sampling, Tree


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: what `METHODS` and a recipe call it.
        credit: from rewards and gains to advantages.
        source: where its numbers come from.
        ratio, eps_low, eps_high, upper, aggregate: see `core.policy_loss`.
        sampling: how a prompt's rollouts are made.
        overlong: the share of the token limit over which the length penalty grows, see `core.overlong_penalty`.

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

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("ratio", self.ratio, get_args(Level)),
            ("upper", self.upper, get_args(Upper)),
            ("aggregate", self.aggregate, get_args(Aggregate)),
        ):
            if value not in choices:
                raise ValueError(f"{self.name}: {name} is {value!r}; choose one of {', '.join(map(repr, choices))}")
        if not (0 <= self.eps_low < 1 and self.eps_high >= 0):
            raise ValueError(
                f"{self.name}: the clip range is 1 − {self.eps_low} to 1 + {self.eps_high}; "
                "pass eps_low in [0, 1) and eps_high of at least 0"
            )
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
        if self.overlong is not None and not 0 < self.overlong <= 1:
            raise ValueError(f"{self.name}: overlong is {self.overlong}; pass a share above 0 and up to 1, or None")

    @property
    def signal(self) -> bool:
        """Whether the credit reads the gain of each turn; without, nothing needs to be scored."""
        return "gain" in self.credit.reads

    @property
    def shares_turns(self) -> bool:
        """Whether rollouts share turns, which `core.count_once` must then give one owner each."""
        return isinstance(self.sampling, Tree | EntropyBranch)

    @property
    def loss_options(self) -> dict[str, Any]:
        """Keyword arguments of `core.policy_loss`."""
        return {name: getattr(self, name) for name in ("ratio", "eps_low", "eps_high", "upper", "aggregate")}


def _turn_groups(name: str, credit: TurnGroupCredit, source: str) -> Method:
    return Method(name, credit, source, ratio="turn", eps_low=3e-3, eps_high=4e-3)


_ROWS = (
    Method("grpo", OutcomeCredit(), "DeepSeekMath, arXiv 2402.03300"),
    Method(
        "dapo",
        OutcomeCredit(),
        "DAPO, arXiv 2503.14476",
        eps_high=0.28,
        aggregate="token",
        sampling=DynamicSampling(),
        overlong=0.2,
    ),
    Method("gspo", OutcomeCredit(), "GSPO, arXiv 2507.18071", ratio="sequence", eps_low=3e-4, eps_high=4e-4),
    Method("gigpo", GigpoCredit(), "GiGPO, arXiv 2505.10978"),
    Method("igpo", IgpoCredit(), "IGPO, arXiv 2510.14967"),
    Method("mica", MicaCredit(), "after MICA, arXiv 2603.06194"),
    Method("tree-grpo", TreeCredit(), "Tree-GRPO, arXiv 2509.21240", sampling=Tree()),
    Method("aepo", EntropyCredit(), "AEPO, arXiv 2510.14545", upper="keep_gradient", sampling=EntropyBranch()),
    _turn_groups("a2tgpo", TurnGroupCredit(), "A²TGPO, arXiv 2605.06200"),
    # The paper's ablation climbs from igpo to a2tgpo in three steps, of which the last, the adaptive clip, is a2tgpo.
    _turn_groups("igpo+tg", TurnGroupCredit(rescale=False, beta=0.0), "ablation of A²TGPO: turn groups"),
    _turn_groups("igpo+tg+sqrt", TurnGroupCredit(beta=0.0), "ablation of A²TGPO: turn groups and √n"),
    _turn_groups("a2tgpo-absorbing", TurnGroupCredit(baseline="absorbing"), "this project, docs/baselines.md"),
    _turn_groups("a2tgpo-floor", TurnGroupCredit(std_floor=0.05), "this project: a floor under small spreads"),
)

_TABLE = {method.name: method for method in _ROWS}

METHODS: Mapping[str, Method] = MappingProxyType(_TABLE)


def resolve_method(name: str, *, eps_low: float | None = None, eps_high: float | None = None, **credit: Any) -> Method:
    """Return the row `name` with other clip bounds or other parameters of its credit.

    Args:
        eps_low, eps_high: bounds in place of the row's; None keeps those.
        credit: fields of the row's credit rule and their values.

    Raises:
        ValueError: there is no such row, its credit has no such parameter, or parts contradict each other.
    """
    if name not in _TABLE:
        raise ValueError(f"method {name!r}: choose one of {', '.join(_TABLE)}")
    row = _TABLE[name]
    known = [f.name for f in fields(row.credit)]  # type: ignore[arg-type]  # every rule is a dataclass
    for parameter in credit:
        if parameter not in known:
            raise ValueError(f"{parameter}={credit[parameter]!r}: method {name!r} has no such parameter; leave it out")
    return replace(
        row,
        credit=replace(row.credit, **credit),  # type: ignore[type-var]
        eps_low=row.eps_low if eps_low is None else eps_low,
        eps_high=row.eps_high if eps_high is None else eps_high,
    )


def register(method: Method) -> Method:
    """Add a row to `METHODS`, in this process; every process of a training script has to.

    Raises:
        ValueError: there is a row of that name.
    """
    if method.name in _TABLE:
        raise ValueError(f"method {method.name!r} has a row already; give yours another name")
    _TABLE[method.name] = method
    return method
