"""Generate a world: people, places and organisations that exist nowhere else, and questions that chain their facts.

Nothing about it can be known beforehand, so every answer has to be found by searching. It is the data of the demo and
of the tests, and is the same on every machine for the same seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2tgpo.data.names import REGIONS, Namer
from a2tgpo.errors import DataError
from a2tgpo.retrieval.corpus import Passage

RELATIONS: Mapping[str, Mapping[str, str]] = {
    "person": {"mentor": "person", "employer": "organisation", "birthplace": "place"},
    "organisation": {"founder": "person", "seat": "place"},
    "place": {"mayor": "person", "twin": "place"},
}
"""Kind of entity -> relation -> kind of the one entity it leads to."""

SPLITS = ("train", "eval")
_SHARES = {"person": 0.5, "organisation": 0.25, "place": 0.25}
_ATTEMPTS_PER_QUESTION = 200


@dataclass(frozen=True)
class Entity:
    """Hold a person, place or organisation.

    `facts` maps each relation of its kind to the id of one entity of its split. `region` is the number of the region
    whose beginning its name has; None in a world without regions.
    """

    id: str
    name: str
    kind: str
    split: str
    facts: Mapping[str, str]
    region: int | None = None


@dataclass(frozen=True)
class Chain:
    """Hold a walk through the world: `entities[k + 1]` is the `relations[k]` of `entities[k]`.

    No entity and no relation comes twice, so the question alone tells which relation follows which.
    """

    entities: tuple[Entity, ...]
    relations: tuple[str, ...]

    @property
    def question(self) -> str:
        """Word it: `Who is the mentor of the founder of Besa Guild?`"""
        word = "Who" if self.entities[-1].kind == "person" else "What"
        path = "".join(f"the {relation} of " for relation in reversed(self.relations))
        return f"{word} is {path}{self.entities[0].name}?"

    @property
    def answer(self) -> str:
        return self.entities[-1].name


class World:
    """Hold entities of two splits that share no name, no fact and no question, in one corpus.

    With a `correlation` above 0 the world has regions, as the real one: the names of a region begin alike, and a fact
    leads to the entity's own region with that probability (people mostly work where they were born), else anywhere. So
    a passage on the way to an answer makes some answers likelier than others; `ideal_reader` says by how much.
    """

    def __init__(self, entities: Sequence[Entity], correlation: float = 0.0) -> None:
        self.entities = tuple(entities)
        self.correlation = correlation
        self._by_id = {entity.id: entity for entity in self.entities}
        self._by_split = {split: [e for e in self.entities if e.split == split] for split in SPLITS}

    @classmethod
    def generate(cls, seed: int, n_train: int = 400, n_eval: int = 200, correlation: float = 0.0) -> World:
        """Draw a world of `n_train` + `n_eval` entities from `seed`: half people, a quarter each places, organisations.

        Args:
            seed: the same seed and numbers give the same world on every machine.
            n_train: entities of the training split.
            n_eval: entities of the evaluation split.
            correlation: from 0, a world without regions, to 1, in which no fact leads out of a region. Passages say
                most between: at 1 the name in the question has said it all.

        Raises:
            DataError: a correlation outside [0, 1]; fewer than 8 entities in a split that is not empty (a relation
                needs two of each kind to choose from); or so many that the names run out, which with regions is
                beyond some 1,000 entities.
        """
        if not 0 <= correlation <= 1:
            raise DataError(f"correlation={correlation}: a probability is from 0 to 1")
        rng = random.Random(seed)
        namer = Namer(rng)
        entities: list[Entity] = []
        for split, size in zip(SPLITS, (n_train, n_eval), strict=True):
            if size and size < 8:
                raise DataError(f"n_{split}={size}: a split needs at least 8 entities, or 0 for none")
            entities += _draw_split(rng, namer, split, size, first=len(entities), correlation=correlation)
        return cls(entities, correlation)

    def __getitem__(self, entity_id: str) -> Entity:
        return self._by_id[entity_id]

    def passage(self, entity: Entity) -> Passage:
        """Write all facts of one entity, a sentence each, under its name."""
        facts = (
            f"The {relation} of {entity.name} is {self[target].name}." for relation, target in entity.facts.items()
        )
        return Passage(id=entity.id, title=entity.name, text=" ".join(facts))

    @property
    def passages(self) -> list[Passage]:
        return [self.passage(entity) for entity in self.entities]

    def write_corpus(self, path: str | Path) -> Path:
        """Write all passages as JSON lines in FlashRAG form."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for passage in self.passages:
                file.write(json.dumps({"id": passage.id, "contents": f'"{passage.title}"\n{passage.text}'}) + "\n")
        return path

    def chain(self, rng: random.Random, split: str, hops: int) -> Chain | None:
        """Draw one random walk of `hops` relations; None where it would have to repeat an entity or a relation."""
        entity = rng.choice(self._by_split[split])
        entities: list[Entity] = [entity]
        relations: list[str] = []
        for _ in range(hops):
            ways = [r for r, to in entity.facts.items() if r not in relations and self[to] not in entities]
            if not ways:
                return None
            relations.append(rng.choice(ways))
            entity = self[entity.facts[relations[-1]]]
            entities.append(entity)
        return Chain(tuple(entities), tuple(relations))

    def chains(self, rng: random.Random, split: str, hops: Sequence[int], n: int) -> Iterator[Chain]:
        """Draw `n` different chains, the hop counts in turn.

        Raises:
            DataError: the world has too few different chains, or the split or a hop count does not exist.
        """
        if not self._by_split.get(split):
            raise DataError(f"split={split!r}: choose one of {', '.join(s for s, es in self._by_split.items() if es)}")
        if not hops or min(hops) < 1:
            raise DataError(f"hops={tuple(hops)}: give one or more positive hop counts")
        seen: set[str] = set()
        for index in range(n):
            wanted = hops[index % len(hops)]
            for _ in range(_ATTEMPTS_PER_QUESTION):
                chain = self.chain(rng, split, wanted)
                if chain and chain.question not in seen:
                    break
            else:
                raise DataError(
                    f"n={n}: only {index} different questions found in {split!r}; ask for fewer or enlarge it"
                )
            seen.add(chain.question)
            yield chain

    def questions(
        self, split: str = "train", hops: Sequence[int] = (1, 2, 3), n: int = 100, seed: int = 0
    ) -> list[dict[str, Any]]:
        """Draw `n` different question rows, the hop counts in turn.

        `supporting_ids` are the passages read on the way.
        """
        return [
            {
                "id": f"hops-{split}-{seed}-{index}",
                "question": chain.question,
                "answer": [chain.answer],
                "hops": len(chain.relations),
                "dataset": "hops",
                "supporting_ids": [entity.id for entity in chain.entities[:-1]],
            }
            for index, chain in enumerate(self.chains(random.Random(seed), split, hops, n))
        ]


def _draw_split(
    rng: random.Random, namer: Namer, split: str, size: int, first: int, correlation: float
) -> list[Entity]:
    kinds = [kind for kind, share in _SHARES.items() for _ in range(int(share * size))]
    kinds += ["person"] * (size - len(kinds))
    ids = [f"e{first + index}" for index in range(size)]
    pool = {kind: [i for i, k in zip(ids, kinds, strict=True) if k == kind] for kind in _SHARES}
    regions = _regions(rng, pool) if correlation else {}
    name = {"person": namer.person, "organisation": namer.organisation, "place": namer.place}

    def lead_from(entity_id: str, target: str) -> str:
        others = [other for other in pool[target] if other != entity_id]
        if correlation and rng.random() < correlation:
            others = [other for other in others if regions[other] == regions[entity_id]]
        return rng.choice(others)

    return [
        Entity(
            id=entity_id,
            name=name[kind](REGIONS[regions[entity_id]] if correlation else ()),
            kind=kind,
            split=split,
            facts={relation: lead_from(entity_id, target) for relation, target in RELATIONS[kind].items()},
            region=regions.get(entity_id),
        )
        for entity_id, kind in zip(ids, kinds, strict=True)
    ]


def _regions(rng: random.Random, pool: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Give each entity a region, in turn, so that each has two of every kind or more: a fact may stay in it."""
    n_regions = max(1, min(len(REGIONS), min(map(len, pool.values())) // 2))
    drawn = rng.sample(range(len(REGIONS)), n_regions)
    return {entity_id: drawn[index % n_regions] for ids in pool.values() for index, entity_id in enumerate(ids)}
