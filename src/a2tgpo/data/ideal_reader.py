"""Say how likely an answer is to a reader who knows how worlds are generated and has read so many passages: the truth
that a policy's likelihoods and gains are measured against.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np

from a2tgpo.data.names import ORGANISATION_KINDS, SYLLABLES
from a2tgpo.data.world import RELATIONS, Chain, World


class IdealReader:
    """Hold what can be known about the answers of one split of a world before any of its passages is read.

    The reader knows the generator: its correlation, its regions and how their names begin, and how many entities of
    each kind a region has. It knows no fact, and no name but those it has read. After the passages of the first t
    entities of a chain it knows the name of entity t, and by its beginning the region. The regions of the entities
    after it are a Markov chain, since every fact is drawn by itself. The first syllable of the answer is as likely as
    its region, what the region decides is then certain, and all else is as likely as any. (That a chain repeats no
    entity and a world no word is left out of account: one in some hundred.)

    Args:
        world: made by `World.generate`.
        split: of the chains that are asked about.
    """

    def __init__(self, world: World, split: str = "train") -> None:
        self._correlation = world.correlation
        counts = Counter((entity.kind, entity.region) for entity in world.entities if entity.split == split)
        n_regions = 1 + max((region for _, region in counts if region is not None), default=0)
        self._sizes = {
            kind: np.array([counts[kind, region if world.correlation else None] for region in range(n_regions)], float)
            for kind in RELATIONS
        }

    def belief(self, chain: Chain, n_read: int) -> np.ndarray:
        """Return the posterior [regions] of the answer's region after `n_read` passages of the chain."""
        known = chain.entities[n_read]
        belief = np.zeros_like(self._sizes[known.kind])
        belief[known.region or 0] = 1.0
        kind = known.kind
        for relation in chain.relations[n_read:]:
            target = RELATIONS[kind][relation]
            belief = belief @ self._transition(kind, target)
            kind = target
        return belief

    def likelihood(self, chain: Chain, n_read: int) -> float:
        """Return v = exp(mean over the answer's tokens of log p) after `n_read` passages, in (0, 1]; 1 after the last.

        Tokens are those of the world's tokenizer: syllables, and the kind of an organisation.
        """
        if n_read == len(chain.relations):
            return 1.0
        answer = chain.entities[-1]
        region = None if answer.region is None else self.belief(chain, n_read)[answer.region]
        probabilities = _name_probabilities(answer.kind, region)
        return math.exp(sum(map(math.log, probabilities)) / len(probabilities))

    def gains(self, chain: Chain) -> list[float]:
        """Return the true information gain v_t − v_{t−1} of every hop, that of reading the right passage."""
        likelihoods = [self.likelihood(chain, n_read) for n_read in range(len(chain.relations) + 1)]
        return [after - before for before, after in pairwise(likelihoods)]

    def _transition(self, kind: str, target: str) -> np.ndarray:
        """Return [regions, regions]: from an entity of `kind` in a region to the regions of its `target`."""
        stays = np.eye(len(self._sizes[target]))
        others = self._sizes[target] - (stays if kind == target else 0.0)  # nobody is their own mentor
        anywhere = np.broadcast_to(others, stays.shape)
        anywhere = anywhere / anywhere.sum(axis=1, keepdims=True)
        return self._correlation * stays + (1 - self._correlation) * anywhere


def _name_probabilities(kind: str, region: float | None) -> list[float]:
    """Return p of each token of a name; `region`: that of its region, None in a world without regions.

    The syllables of a word are different ones, so each leaves one less to choose from for the next.
    """
    n = len(SYLLABLES)
    if region is None:
        word, third = [1 / n, 1 / (n - 1)], 1 / (n - 2)
        first = word
    else:
        first, word, third = [region, 1 / (n - 1)], [1.0, 1 / (n - 1)], 1 / (n - 2)
    if kind == "person":
        return first + word
    if kind == "organisation":
        return [*first, 1 / len(ORGANISATION_KINDS)]
    return [*(first if region is None else [region, 1.0]), third]
