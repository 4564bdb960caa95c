"""Which rollouts of a prompt begin where others stand: the interface, and the answer "none"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from a2tgpo.rollout.backend import Turn
from a2tgpo.rollout.types import Rollout


@dataclass(frozen=True)
class Branch:
    """A rollout to be begun.

    Attributes:
        parent: the row whose rollout it shares the beginning of.
        turn: the parent's first turn that it does not share; 0 shares the prompt alone.
        tree: the tree it belongs to.
    """

    parent: int
    turn: int
    tree: int


class Expansion(Protocol):
    """Begins the rollouts of a group: `group_size` rollouts of one prompt, a group after the other in a batch."""

    @property
    def group_size(self) -> int: ...

    @property
    def n_initial(self) -> int:
        """Rollouts of each group sampled from the prompt on, each a tree; the others branch off them."""

    @property
    def n_entropies(self) -> int:
        """Tokens at the start of each turn whose entropies it reads."""

    def branches(self, rollouts: Mapping[int, Rollout], turns: Mapping[int, Turn]) -> Sequence[Branch]:
        """Rollouts of a group to be begun now.

        Args:
            rollouts: all that the group has, by row.
            turns: those just taken in the group, by row: their rollouts have ended or stand after an observation.
        """


@dataclass(frozen=True)
class Chains:
    """Every rollout is sampled from its prompt on."""

    group_size: int

    @property
    def n_initial(self) -> int:
        return self.group_size

    n_entropies = 0

    def branches(self, rollouts: Mapping[int, Rollout], turns: Mapping[int, Turn]) -> Sequence[Branch]:
        """None."""
        return ()


def check_groups(prompts: Sequence[Any], group_size: int) -> None:
    """Raise `ValueError` unless `prompts` come in runs of `group_size` copies."""
    for first in range(0, len(prompts), group_size):
        group = prompts[first : first + group_size]
        if len(group) < group_size or any(prompt != group[0] for prompt in group):
            raise ValueError(
                f"prompts {first} to {first + group_size - 1} of {len(prompts)} are not {group_size} copies of one: "
                "rollouts that branch need all copies of a prompt in one process; make "
                f"per_device_train_batch_size·steps_per_generation a multiple of num_generations={group_size}"
            )
