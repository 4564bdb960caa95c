"""Say what a credit rule reads, what it returns, and what every rule is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from a2tgpo.core._inputs import check_shapes, check_values, full_precision
from a2tgpo.core.groups import Std, normalize_outcome

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


class TurnCredit(NamedTuple):
    """Hold the worth of each turn, and how far it may move the policy."""

    advantage: Float[Tensor, "B T"]
    clip_scale: Float[Tensor, "B T"]
    normalized_gain: Float[Tensor, "B T"]


@dataclass(frozen=True, eq=False)
class TurnBatch:
    """Hold B rollouts of T turns at most; what a rule does not read may be left out or hold anything.

    Two rollouts of one prompt, of which the first searches twice and answers and the second searches once:

        gain        [[.2, −.1, 0], [.4, 0, 0]]     n_turns  [3, 2]
        is_process  [[1, 1, 0], [1, 0, 0]]         outcome  [1., 0.]     group  [0, 0]

    Attributes:
        gain: the process signal of each turn; read on process turns only.
        is_process: turns that an observation follows.
        outcome: the reward of each rollout.
        group: the prompt of each rollout, an index in 0..B−1.
        n_turns: the number of turns of each rollout; later columns are padding.
        counted: process turns that have a gain at all, by default all of them.
        valid: rollouts to learn from, by default all. The others enter no statistics and get advantage 0.
        state: the observation state each turn started from: turns of one prompt with equal states share an
            index in 0..B·T−1; −1 where there is none.
        tree: the tree each rollout is a leaf of, an index in 0..B−1; trees of different prompts may share one.
        entropy: mean entropy of the policy over the tokens of each turn, in nats.
        normalized_outcome: R̂ of each rollout from an engine that compares outcomes in a way of its own; by default
            rules normalise `outcome` in the prompt's group. Read by rules that add R̂ as it is (`adds_outcome`).

    Raises:
        ValueError: mismatched shapes or dtypes.
    """

    gain: Float[Tensor, "B T"]
    is_process: Bool[Tensor, "B T"]
    outcome: Float[Tensor, " B"]
    group: Int[Tensor, " B"]
    n_turns: Int[Tensor, " B"]
    counted: Bool[Tensor, "B T"] | None = None
    valid: Bool[Tensor, " B"] | None = None
    state: Int[Tensor, "B T"] | None = None
    tree: Int[Tensor, " B"] | None = None
    entropy: Float[Tensor, "B T"] | None = None
    normalized_outcome: Float[Tensor, " B"] | None = None

    def __post_init__(self) -> None:
        layout = {
            "gain": "float B T",
            "is_process": "bool B T",
            "outcome": "float B",
            "group": "long B",
            "n_turns": "long B",
            "counted": "bool B T",
            "valid": "bool B",
            "state": "long B T",
            "tree": "long B",
            "entropy": "float B T",
            "normalized_outcome": "float B",
        }
        given = {name: getattr(self, name) for name in layout}
        check_shapes(**{name: (given[name], layout[name]) for name in layout if given[name] is not None})

    @property
    def is_valid(self) -> Bool[Tensor, " B"]:
        """Mark the rollouts to learn from."""
        return torch.ones_like(self.group, dtype=torch.bool) if self.valid is None else self.valid

    @property
    def learned(self) -> Bool[Tensor, "B T"]:
        """Mark the turns of rollouts to learn from."""
        return turn_mask(self.n_turns, self.is_process) & self.is_valid[:, None]

    @property
    def has_gain(self) -> Bool[Tensor, "B T"]:
        """Mark the process turns of rollouts to learn from whose gain counts."""
        counted = self.is_process if self.counted is None else self.is_process & self.counted
        return counted & self.is_valid[:, None]

    def reward(self, std: Std = "population") -> Float[Tensor, " B"]:
        """Return R̂ of each rollout, 0 where it is not valid; `std` as in `normalize_outcome`."""
        if self.normalized_outcome is None:
            return normalize_outcome(self.outcome, self.group, valid=self.valid, std=std)
        return torch.where(self.is_valid, full_precision(self.normalized_outcome), 0)

    def required(self, name: str) -> Tensor:
        """Return an optional field that a rule cannot do without.

        Raises:
            ValueError: it was not given.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ValueError(f"{name} is None; the credit rule reads it, so build the batch with TurnBatch({name}=...)")
        return value


class CreditRule(Protocol):
    """Turn a batch into credit: a frozen dataclass of its own parameters, called on a batch."""

    reads: ClassVar[frozenset[str]]
    """Fields of `TurnBatch` it needs beside outcome, group and turns: gain, state, tree, entropy.

    A rule with `adds_outcome = True` takes R̂ from `TurnBatch.reward`, so that an engine may normalise outcomes itself.
    """

    def __call__(self, batch: TurnBatch) -> TurnCredit: ...


def plain_credit(
    advantage: Float[Tensor, "B ..."],
    learned: Bool[Tensor, "B T"],
    normalized_gain: Float[Tensor, "B T"] | None = None,
) -> TurnCredit:
    """Return the advantage on the turns learned from, 0 elsewhere, and the plain clip range everywhere."""
    advantage = torch.where(learned, advantage, 0)
    gain = torch.zeros_like(advantage) if normalized_gain is None else normalized_gain
    return TurnCredit(advantage, torch.ones_like(advantage), gain)


def check_credit(credit: TurnCredit, batch: TurnBatch) -> None:
    """Check what a rule gave `batch`, for rules of a user's.

    Raises:
        ValueError: a tensor of another shape than the batch's turns, or a turn learned from whose number is not finite.
    """
    layout = {name: (values, "float B T") for name, values in credit._asdict().items()}
    check_shapes(is_process=(batch.is_process, "bool B T"), **layout)
    learned = batch.learned
    for name, values in credit._asdict().items():
        rule = "a credit rule gives every turn a finite number; look for a division by 0 in it"
        check_values(name, values, values.isfinite() | ~learned, rule)


def turn_mask(n_turns: Int[Tensor, " B"], is_process: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Mark the turns that a rollout has.

    Raises:
        ValueError: more turns than columns, or a process turn past the rollout's last turn.
    """
    width = is_process.shape[1]
    check_values(
        "n_turns",
        n_turns,
        (n_turns >= 0) & (n_turns <= width),
        f"gain has {width} turn columns, so count between 0 and {width} turns",
    )
    is_turn = torch.arange(width, device=n_turns.device) < n_turns[:, None]
    check_values(
        "is_process",
        is_process,
        is_turn | ~is_process,
        "the rollout has fewer turns in n_turns; unset it on padding or correct n_turns",
    )
    return is_turn
