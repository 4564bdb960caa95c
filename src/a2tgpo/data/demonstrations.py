"""Script demonstrations for the warm start: in generated worlds, imperfect on purpose, and for real questions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from a2tgpo.data.ideal_reader import IdealReader
from a2tgpo.data.names import split_syllables
from a2tgpo.data.world import REGION_SIZE, Chain, Entity, World
from a2tgpo.errors import DataError
from a2tgpo.retrieval.bm25 import BM25Retriever
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import BatchedSearch
from a2tgpo.rollout.demonstration import Demonstration, Lookup

# A world lasts for a few demonstrations only: a policy that met the same names again would learn them by heart.
_DEMONSTRATIONS_PER_WORLD, _ENTITIES_PER_WORLD, _REGIONS_PER_WORLD = 16, 80, 3
_TOP_K, _TITLE_WEIGHT = 3, 3


@dataclass(frozen=True)
class Imperfection:
    """Say how often a demonstrated agent errs, each a probability.

    A warm start on these knows the format and can look things up, but often does not know what to do: that is left to
    reinforcement.

    Args:
        stops_early: per demonstration of two hops or more, to answer before the last hop: with an entity on the way, or
            in a world with regions with a guess, drawn from what the passages read so far leave possible.
        wrong_hop: per search after the first, to look up another entity of the last passage before the right one.
        no_results: per search, to mistype the name first, find nothing, and correct it. Not zero, or a policy that has
            never seen an empty result leaves the format after one.
    """

    stops_early: float = 0.0
    wrong_hop: float = 0.0
    no_results: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) <= 1:
                raise DataError(f"{field.name}={value}: a probability is from 0 to 1")


def demonstrate_hops(
    n: int,
    seed: int = 0,
    hops: Sequence[int] = (1, 2, 3),
    imperfection: Imperfection | None = None,
    correlation: float = 0.0,
) -> Iterator[Demonstration]:
    """Yield `n` demonstrations, the hop counts in turn, in worlds of their own that no question is ever asked about.

    Each search is for a name and answered by BM25 over the passages of the world, which has regions where `correlation`
    is above 0 (see `World`).

    Raises:
        DataError: no hop count, or one below 1 or too long for a small world.
    """
    if not hops:
        raise DataError(f"hops={tuple(hops)}: give one or more positive hop counts")
    rng = random.Random(seed)
    for first in range(0, n, _DEMONSTRATIONS_PER_WORLD):
        size = _REGIONS_PER_WORLD * REGION_SIZE if correlation else _ENTITIES_PER_WORLD
        world = World.generate(rng.getrandbits(63), size, 0, correlation)
        agent = _ScriptedAgent(world, rng, imperfection or Imperfection())
        for index in range(first, min(n, first + _DEMONSTRATIONS_PER_WORLD)):
            (chain,) = world.chains(rng, "train", (hops[index % len(hops)],), 1)
            yield agent.demonstrate(chain)


def demonstrate_support(
    questions: Iterable[Mapping[str, Any]], passages: Mapping[str, Passage], search: BatchedSearch
) -> Iterator[Demonstration]:
    """Look up the title of each supporting passage in turn, then give the first answer.

    The results are the search tool's own, so a demonstration shows what a rollout would see, found or not. Questions
    without supporting passages in `passages` are passed over, and so are passages without a title to look up.

    Raises:
        DataError: no question names a supporting passage.
    """
    found = False
    for row in questions:
        support = [passages[key].title for key in row["supporting_ids"] if key in passages]
        titles = list(dict.fromkeys(title for title in support if title.strip()))
        if not titles:
            continue
        found = True
        results = search(titles)
        lookups = tuple(
            Lookup(f"I need to look up {title}.", title, tuple(result))
            for title, result in zip(titles, results, strict=True)
        )
        yield Demonstration(row["question"], lookups, row["answer"][0])
    if not found:
        raise DataError(
            "no question has supporting_ids that are in the corpus, so there is nothing to demonstrate; "
            "set warm_start_steps: 0"
        )


class _ScriptedAgent:
    def __init__(self, world: World, rng: random.Random, imperfection: Imperfection) -> None:
        self._world = world
        self._rng = rng
        self._imperfection = imperfection
        self._reader = IdealReader(world)
        self._retriever = BM25Retriever.from_passages(world.passages, title_weight=_TITLE_WEIGHT)

    def demonstrate(self, chain: Chain) -> Demonstration:
        hops = len(chain.relations)
        if hops > 1 and self._errs(self._imperfection.stops_early):
            hops = self._rng.randrange(1, hops)
        lookups: list[Lookup] = []
        for hop, (entity, relation) in enumerate(zip(chain.entities[:hops], chain.relations, strict=False)):
            if hop and self._errs(self._imperfection.wrong_hop):
                lookups += self._look_up(relation, self._bystander(chain, hop))
            lookups += self._look_up(relation, entity)
        return Demonstration(chain.question, tuple(lookups), self._answer(chain, hops).name)

    def _answer(self, chain: Chain, n_read: int) -> Entity:
        """Return the answer, or after fewer passages than hops what a demonstration says instead."""
        reached = chain.entities[n_read]
        if n_read == len(chain.relations) or reached.parts is None:
            return reached
        possible = self._reader.entities[chain.entities[-1].kind]
        return self._rng.choices(possible, self._reader.belief(chain, n_read).tolist())[0]

    def _look_up(self, relation: str, entity: Entity) -> Iterator[Lookup]:
        thought = f"I need the {relation} of {entity.name}."
        if self._errs(self._imperfection.no_results):
            mistyped = self._search(thought, _swap_syllables(entity.name))
            if not mistyped.passages:
                yield mistyped
        yield self._search(thought, entity.name)

    def _search(self, thought: str, query: str) -> Lookup:
        (hits,) = self._retriever.search([query], _TOP_K)
        return Lookup(thought, query, tuple(hit.passage for hit in hits))

    def _bystander(self, chain: Chain, hop: int) -> Entity:
        """Return where another fact of the passage read last leads."""
        others = [to for to in chain.entities[hop - 1].facts.values() if to != chain.entities[hop].id]
        return self._world[self._rng.choice(others)]

    def _errs(self, probability: float) -> bool:
        return self._rng.random() < probability


def _swap_syllables(name: str) -> str:
    """Put the first syllable of the first word last: `Kelo Mitu` gives `Loke`."""
    first, *others = split_syllables(name.split()[0])
    return "".join([*others, first]).capitalize()
