"""Begin rollouts where others stand: from random nodes (Tree-GRPO), or where the policy is unsure (AEPO)."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from statistics import fmean

from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.expansion import Branch
from a2tgpo.rollout.strategies import EntropyBranch, Tree
from a2tgpo.rollout.types import Rollout


@dataclass(frozen=True)
class TreeExpansion:
    """Grow a `Tree` (an `Expansion`): each tree gets its next round of branches as soon as all its rollouts have ended.

    No tree waits for another, and those of the first round start from the KV cache of the rollout that has just
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
        """Return the next round of every tree whose last rollout has just ended."""
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
    """Map each place where a turn was sampled, named by the turns above, to a row that passes there and its turn."""
    return {
        tuple(rollout.nodes[:turn]): (row, turn)
        for row, rollout in rollouts.items()
        for turn in range(len(rollout.nodes))
    }


class EntropyExpansion:
    """Branch by `EntropyBranch` (an `Expansion`) in one batch.

    Args:
        rule: when to branch.
        group_size: rollouts per prompt.
    """

    def __init__(self, rule: EntropyBranch, group_size: int) -> None:
        self.rule = rule
        self.group_size = group_size
        self.n_initial = rule.initial
        self.n_entropies = rule.entropy_tokens
        # By sampled turn: its entropy, and whether its path branched after it.
        self._entropy: dict[int, float] = {}
        self._branched: set[int] = set()

    def branches(self, rollouts: Mapping[int, Rollout], turns: Mapping[int, Turn]) -> list[Branch]:
        """Copy the rollouts that branch after their turn; begin new ones where all have ended."""
        n_missing = self.group_size - len(rollouts)
        branches: list[Branch] = []
        for row, turn in turns.items():
            rollout = rollouts[row]
            self._entropy[rollout.nodes[-1]] = fmean(turn.entropies)
            if rollout.termination is None:
                n_copies = min(self._n_copies(rollout), n_missing - len(branches))
                branches += [Branch(row, len(rollout.nodes), rollout.tree)] * n_copies
                if n_copies:
                    self._branched.add(rollout.nodes[-1])
        if all(rollout.termination is not None for rollout in rollouts.values()):
            n_trees = len({rollout.tree for rollout in rollouts.values()})
            return [Branch(next(iter(turns)), 0, n_trees + n) for n in range(n_missing)]
        return branches

    def _n_copies(self, rollout: Rollout) -> int:
        """Draw how many of the `beam − 1` copies of a rollout that stands after an observation go on."""
        rise = self._entropy[rollout.nodes[-1]] - self._entropy[rollout.nodes[0]]
        probability = self.rule.probability(rise, self._n_consecutive(rollout))
        return sum(random.random() < probability for _ in range(self.rule.beam - 1))

    def _n_consecutive(self, rollout: Rollout) -> int:
        """Count the turns right above the last one after which the path branched."""
        return sum(1 for _ in takewhile(self._branched.__contains__, reversed(rollout.nodes[:-1])))
