"""Tree-GRPO's rollouts: trees that grow from random nodes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from a2tgpo.rollout.backend import Turn
from a2tgpo.rollout.expansion import Branch
from a2tgpo.rollout.strategies import Tree
from a2tgpo.rollout.types import Rollout


@dataclass(frozen=True)
class TreeExpansion:
    """`Expansion` by `Tree`: a tree grows its next round of branches as soon as all its rollouts have ended.

    No tree waits for another, and those of the first round start from the cached keys of the rollout that has just
    ended. In a later round a node on a rollout that ended before shares the keys of its tree's rows still held, up to
    where they part; the rest of its context is read again.
    """

    tree: Tree

    n_entropies = 0

    @property
    def group_size(self) -> int:
        return self.tree.n_rollouts

    @property
    def n_initial(self) -> int:
        return self.tree.trees

    def branches(self, rollouts: Mapping[int, Rollout], turns: Mapping[int, Turn]) -> list[Branch]:
        """The next round of every tree whose last rollout has just ended."""
        trees: dict[int, list[int]] = defaultdict(list)
        for row, rollout in rollouts.items():
            trees[rollout.tree].append(row)
        branches = []
        for tree in sorted({rollouts[row].tree for row in turns}):
            rows = trees[tree]
            n_rounds = (len(rows) - 1) // self.tree.branches
            if n_rounds < self.tree.rounds and all(rollouts[row].termination is not None for row in rows):
                nodes = list(_nodes({row: rollouts[row] for row in rows}).values())
                branches += [Branch(*random.choice(nodes), tree) for _ in range(self.tree.branches)]
        return branches


def _nodes(rollouts: Mapping[int, Rollout]) -> dict[tuple[int, ...], tuple[int, int]]:
    """Where a turn was sampled, by the turns above: a row that passes there, and the turn it took."""
    return {
        tuple(rollout.nodes[:turn]): (row, turn)
        for row, rollout in rollouts.items()
        for turn in range(len(rollout.nodes))
    }
