"""Say how likely an answer is to a reader who knows how worlds are generated and has read so many passages: the truth
that a policy's likelihoods and gains are measured against.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np

from a2tgpo.data.names import ORGANISATION_KINDS, SYLLABLES
from a2tgpo.data.world import CHANGES, RELATIONS, Chain, World

_TOKENS = 4
"""Tokens of a name in a world with regions, one for each part."""


class IdealReader:
    """Hold what can be known about the answers of one split of a world before any of its passages is read.

    The reader knows the generator: which names there are of each kind, and with what probability a fact changes which
    part of them. It knows no fact. After the passages of the first t entities of a chain it knows entity t; those after
    it are a Markov chain, since every fact is drawn by itself, that returns to none of those. (Left out of account:
    that it does not return to one not yet read either.) In a world without regions any name that can be made is as
    likely as any.

    Args:
        world: made by `World.generate`.
        split: of the chains that are asked about.
    """

    def __init__(self, world: World, split: str = "train") -> None:
        self._correlation = world.correlation
        self.entities = {
            kind: [entity for entity in world.entities if (entity.split, entity.kind) == (split, kind)]
            for kind in RELATIONS
        }
        self._index = {entity.id: index for named in self.entities.values() for index, entity in enumerate(named)}
        self._transition = cache(self._transition_of)

    def belief(self, chain: Chain, n_read: int) -> np.ndarray:
        """Return the posterior over the `entities` of the answer's kind after `n_read` passages of the chain.

        For a world with regions.
        """
        known = chain.entities[n_read]
        belief = np.zeros(len(self.entities[known.kind]))
        belief[self._index[known.id]] = 1.0
        kind = known.kind
        for relation in chain.relations[n_read:]:
            belief = belief @ self._transition(kind, relation)
            kind = RELATIONS[kind][relation]
            belief[[self._index[entity.id] for entity in chain.entities[: n_read + 1] if entity.kind == kind]] = 0.0
        return belief / belief.sum()

    def likelihood(self, chain: Chain, n_read: int) -> float:
        """Return v = exp(mean over the answer's tokens of log p) after `n_read` passages, in (0, 1]; 1 after the last.

        Tokens are those of the world's tokenizer: syllables, and the kind of an organisation.
        """
        if n_read == len(chain.relations):
            return 1.0
        answer = chain.entities[-1]
        if answer.parts is None:
            probabilities = _name_probabilities(answer.kind)
            return math.exp(sum(map(math.log, probabilities)) / len(probabilities))
        return float(self.belief(chain, n_read)[self._index[answer.id]]) ** (1 / _TOKENS)

    def gains(self, chain: Chain) -> list[float]:
        """Return the true information gain v_t − v_{t−1} of every hop, that of reading the right passage."""
        likelihoods = [self.likelihood(chain, n_read) for n_read in range(len(chain.relations) + 1)]
        return [after - before for before, after in pairwise(likelihoods)]

    def _transition_of(self, kind: str, relation: str) -> np.ndarray:
        """Return the probability [entities of `kind`, entities of its target] of leading from one to the other."""
        target, changed = RELATIONS[kind][relation], CHANGES[relation]
        starts, ends = (np.array([entity.parts for entity in self.entities[k]]) for k in (kind, target))
        agree = starts[:, None, :] == ends[None, :, :]
        rule = np.delete(agree, changed, axis=2).all(axis=2)
        if changed == 0:
            rule &= ~agree[:, :, 0]
        anybody = ~agree.all(axis=2) if kind == target else np.ones_like(rule)
        kept, other = (matrix / matrix.sum(axis=1, keepdims=True) for matrix in (rule, anybody))
        return self._correlation * kept + (1 - self._correlation) * other


def _name_probabilities(kind: str) -> list[float]:
    """Return p of each token of a name in a world without regions.

    The syllables of a word are different ones, so each leaves one less to choose from for the next.
    """
    n = len(SYLLABLES)
    word = [1 / n, 1 / (n - 1)]
    if kind == "person":
        return word + word
    return [*word, 1 / len(ORGANISATION_KINDS) if kind == "organisation" else 1 / (n - 2)]
