"""The rollouts of a batch while they are made, and those that branch off them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from a2tgpo.rollout.backend import Turn
from a2tgpo.rollout.expansion import Expansion
from a2tgpo.rollout.types import Rollout


class RolloutGroups:
    """Rollouts by row, of which the first of each group are there at once and the others as `expansion` says.

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
        for place, ids in enumerate(prompt_ids):
            group, tree = divmod(place, expansion.group_size)
            if tree < expansion.n_initial:
                self._add(Rollout(ids, tree=tree), group)

    def name_turns(self, turns: Mapping[int, Turn]) -> None:
        """Number the sampled turns, which their rollouts have just been given."""
        for row in turns:
            self.rollouts[row].nodes.append(self._n_turns)
            self._n_turns += 1

    def branch(self, turns: Mapping[int, Turn]) -> list[int]:
        """Begin the rollouts that branch now that `turns` have been taken; return their rows."""
        n_before = len(self.rollouts)
        by_group: dict[int, dict[int, Turn]] = defaultdict(dict)
        for row, turn in turns.items():
            by_group[self._group_of[row]][row] = turn
        for group, taken in by_group.items():
            for branch in self.expansion.branches({row: self.rollouts[row] for row in self._rows[group]}, taken):
                self._add(self.rollouts[branch.parent].before_turn(branch.turn, branch.tree), group)
        return list(range(n_before, len(self.rollouts)))

    def in_order(self) -> list[Rollout]:
        """The rollouts of the first group, in the order they were begun, those of the second, and so on."""
        assert len(self.rollouts) == self._n_places, f"{len(self.rollouts)} rollouts for {self._n_places} prompts"
        return [self.rollouts[row] for group in sorted(self._rows) for row in self._rows[group]]

    def _add(self, rollout: Rollout, group: int) -> None:
        self._rows[group].append(len(self.rollouts))
        self._group_of.append(group)
        self.rollouts.append(rollout)
        assert len(self._rows[group]) <= self.expansion.group_size, "a group has more rollouts than prompts"
