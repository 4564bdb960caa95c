"""Keep the rollouts of a batch while they are made; some may begin where others stand."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.types import Rollout


@dataclass(frozen=True)
class Branch:
    """Name a rollout to be begun.

    Attributes:
        parent: the row whose rollout it shares the beginning of.
        turn: the parent's first turn that it does not share; 0 shares the prompt alone.
        tree: the tree it belongs to.
    """

    parent: int
    turn: int
    tree: int


class Expansion(Protocol):
    """Begin the rollouts of a group: `group_size` rollouts of one prompt, a group after the other in a batch."""

    @property
    def group_size(self) -> int: ...

    @property
    def n_initial(self) -> int:
        """Count the rollouts of each group sampled from the prompt on, each a tree; the others branch off them."""

    @property
    def n_entropies(self) -> int:
        """Count the tokens at the start of each turn whose entropies it reads."""

    def branches(self, rollouts: Mapping[int, Rollout], turns: Mapping[int, Turn]) -> Sequence[Branch]:
        """Return the rollouts of a group to be begun now.

        Args:
            rollouts: all that the group has, by row.
            turns: those just taken in the group, by row: their rollouts have ended or stand after an observation.
        """


@dataclass(frozen=True)
class Chains:
    """Sample every rollout from its prompt on."""

    group_size: int

    @property
    def n_initial(self) -> int:
        return self.group_size

    n_entropies = 0

    def branches(self, rollouts: Mapping[int, Rollout], turns: Mapping[int, Turn]) -> Sequence[Branch]:
        """Begin none."""
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


def initial_places(n_places: int, expansion: Expansion) -> list[int]:
    """Return where in the batch the rollouts stand that are sampled from their prompt on; entry r is row r's."""
    return [place for place in range(n_places) if place % expansion.group_size < expansion.n_initial]


class RolloutGroups:
    """Hold rollouts by row, of which the first of each group are there at once and the others as `expansion` says.

    Args:
        prompt_ids: one per rollout, those of a group in a row.
        expansion: begins the rollouts that branch.
    """

    def __init__(self, prompt_ids: Sequence[list[int]], expansion: Expansion) -> None:
        self.expansion = expansion
        self.rollouts: list[Rollout] = []
        self._n_places = len(prompt_ids)
        self._rows: dict[int, list[int]] = defaultdict(list)
        self._group_of: list[int] = []
        self._n_turns = 0
        for place in initial_places(len(prompt_ids), expansion):
            group, tree = divmod(place, expansion.group_size)
            self._add(Rollout(prompt_ids[place], tree=tree), group)

    def name_turns(self, turns: Mapping[int, Turn]) -> None:
        """Number the sampled turns, which their rollouts have just been given."""
        for row in turns:
            self.rollouts[row].nodes.append(self._n_turns)
            self._n_turns += 1

    def branch(self, turns: Mapping[int, Turn]) -> dict[int, Branch]:
        """Begin the rollouts that branch now that `turns` have been answered; return them by their rows."""
        begun: dict[int, Branch] = {}
        by_group: dict[int, dict[int, Turn]] = defaultdict(dict)
        for row, turn in turns.items():
            by_group[self._group_of[row]][row] = turn
        for group, taken in by_group.items():
            for branch in self.expansion.branches({row: self.rollouts[row] for row in self._rows[group]}, taken):
                begun[len(self.rollouts)] = branch
                self._add(self.rollouts[branch.parent].before_turn(branch.turn, branch.tree), group)
        return begun

    def in_order(self) -> list[Rollout]:
        """Return the rollouts of the first group, in the order they were begun, those of the second, and so on."""
        assert len(self.rollouts) == self._n_places, f"{len(self.rollouts)} rollouts for {self._n_places} prompts"
        return [self.rollouts[row] for group in sorted(self._rows) for row in self._rows[group]]

    def _add(self, rollout: Rollout, group: int) -> None:
        self._rows[group].append(len(self.rollouts))
        self._group_of.append(group)
        self.rollouts.append(rollout)
        assert len(self._rows[group]) <= self.expansion.group_size, "a group has more rollouts than prompts"
