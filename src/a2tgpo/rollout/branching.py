"""AEPO's rollouts: they branch, more readily the less sure the policy is."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import takewhile
from statistics import fmean

from a2tgpo.rollout.backend import Turn
from a2tgpo.rollout.expansion import Branch
from a2tgpo.rollout.strategies import EntropyBranch
from a2tgpo.rollout.types import Rollout


class EntropyExpansion:
    """`Expansion` by `EntropyBranch`, for one batch.

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
        """Copies of the rollouts that branch after their turn; new ones where all have ended."""
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
        """How many of the `beam − 1` copies of a rollout that stands after an observation go on."""
        rise = self._entropy[rollout.nodes[-1]] - self._entropy[rollout.nodes[0]]
        probability = self.rule.probability(rise, self._n_consecutive(rollout))
        return sum(random.random() < probability for _ in range(self.rule.beam - 1))

    def _n_consecutive(self, rollout: Rollout) -> int:
        """Turns right above the last one after which the path branched."""
        return sum(1 for _ in takewhile(self._branched.__contains__, reversed(rollout.nodes[:-1])))
