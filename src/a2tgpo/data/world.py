"""Generate a world: people, places and organisations that exist nowhere else, and questions that chain their facts.

Nothing about it can be known beforehand, so every answer has to be found by searching. It is the data of the demo and
of the tests, and is the same on every machine for the same seed.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from a2tgpo.data.names import PARTS, REGIONS, Namer, spell
from a2tgpo.errors import DataError
from a2tgpo.retrieval.corpus import Passage

RELATIONS: Mapping[str, Mapping[str, str]] = {
    "person": {"mentor": "person", "employer": "organisation", "birthplace": "place"},
    "organisation": {"founder": "person", "seat": "place"},
    "place": {"mayor": "person", "twin": "place"},
}
"""Kind of entity -> relation -> kind of the one entity it leads to."""

CHANGES = {"mentor": 0, "founder": 0, "twin": 0, "employer": 1, "birthplace": 2, "seat": 2, "mayor": 3}
"""Relation -> the part of the name in which, in a world with regions, its two ends differ; the region is part 0."""

SPLITS = ("train", "eval")
Parts = tuple[int, ...]
_SHARES = {"person": 0.5, "organisation": 0.25, "place": 0.25}
_ATTEMPTS_PER_QUESTION = 200
_PER_KIND = len(PARTS[0]) * len(PARTS[1]) * len(PARTS[2])
REGION_SIZE = len(_SHARES) * _PER_KIND
"""Entities of a region: a person, an organisation and a place of every name that begins as the region does."""


@dataclass(frozen=True)
class Entity:
    """Hold a person, place or organisation.

    `facts` maps each relation of its kind to the id of one entity of its split. `parts` says what its name is made of,
    in a world with regions: the region, then one of three for each other part.
    """

    id: str
    name: str
    kind: str
    split: str
    facts: Mapping[str, str]
    parts: Parts | None = None


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

    With a `correlation` above 0 the world has regions, and evidence accumulates on the way to an answer. A name is made
    of four parts, of which the region is the first. With that probability a fact leads to an entity whose name differs
    in one part only, which its relation decides (`CHANGES`): mentors, founders and twins are in other regions,
    employers differ in the second part, and so on; else it leads to anybody. A question has no two relations that
    change the same part, so each hop settles one part of the answer's name. `ideal_reader` says how likely the answer
    is after each.
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
            n_train: entities of the training split; with regions, rounded down to whole regions of 81.
            n_eval: entities of the evaluation split, likewise.
            correlation: from 0, a world without regions, to 1, in which every fact keeps to its relation's rule.

        Raises:
            DataError: a correlation outside [0, 1]; fewer than 8 entities in a split that is not empty (a relation
                needs two of each kind to choose from), or fewer than two regions of 81; or so many that names or
                regions run out.
        """
        if not 0 <= correlation <= 1:
            raise DataError(f"correlation={correlation}: a probability is from 0 to 1")
        rng = random.Random(seed)
        if correlation:
            return cls(_draw_regions(rng, n_train, n_eval, correlation), correlation)
        namer = Namer(rng)
        entities: list[Entity] = []
        for split, size in zip(SPLITS, (n_train, n_eval), strict=True):
            if size and size < 8:
                raise DataError(f"n_{split}={size}: a split needs at least 8 entities, or 0 for none")
            entities += _draw_split(rng, namer, split, size, first=len(entities))
        return cls(entities)

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
        """Draw one random walk of `hops` relations; None where it would have to repeat an entity or a relation, or with
        regions to change a part twice."""
        entity = rng.choice(self._by_split[split])
        entities: list[Entity] = [entity]
        relations: list[str] = []
        for _ in range(hops):
            ways = [r for r, to in entity.facts.items() if r not in relations and self[to] not in entities]
            if self.correlation:
                changed = {CHANGES[relation] for relation in relations}
                ways = [relation for relation in ways if CHANGES[relation] not in changed]
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
                    f"n={n}: only {index} different questions found in {split!r}, no other of {wanted} hops; ask for "
                    "fewer questions, for fewer hops, or enlarge the world"
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


def _draw_split(rng: random.Random, namer: Namer, split: str, size: int, first: int) -> list[Entity]:
    kinds = [kind for kind, share in _SHARES.items() for _ in range(int(share * size))]
    kinds += ["person"] * (size - len(kinds))
    ids = [f"e{first + index}" for index in range(size)]
    pool = {kind: [i for i, k in zip(ids, kinds, strict=True) if k == kind] for kind in _SHARES}
    name = {"person": namer.person, "organisation": namer.organisation, "place": namer.place}
    return [
        Entity(
            id=entity_id,
            name=name[kind](),
            kind=kind,
            split=split,
            facts={
                relation: rng.choice([other for other in pool[target] if other != entity_id])
                for relation, target in RELATIONS[kind].items()
            },
        )
        for entity_id, kind in zip(ids, kinds, strict=True)
    ]


def _draw_regions(rng: random.Random, n_train: int, n_eval: int, correlation: float) -> list[Entity]:
    n_regions = {"train": n_train // REGION_SIZE, "eval": n_eval // REGION_SIZE}
    for split, size in zip(SPLITS, (n_train, n_eval), strict=True):
        if size and n_regions[split] < 2:
            raise DataError(
                f"n_{split}={size}: with regions a split needs at least {2 * REGION_SIZE} entities, or 0 for none"
            )
    if sum(n_regions.values()) > len(REGIONS):
        most = len(REGIONS) * REGION_SIZE
        raise DataError(f"n_train={n_train}, n_eval={n_eval}: there are {len(REGIONS)} regions, for {most} entities")
    drawn = rng.sample(range(len(REGIONS)), sum(n_regions.values()))
    entities: list[Entity] = []
    for split, first, last in (("train", 0, n_regions["train"]), ("eval", n_regions["train"], len(drawn))):
        entities += _fill_regions(rng, split, drawn[first:last], len(entities), correlation)
    return entities


def _fill_regions(
    rng: random.Random, split: str, regions: Sequence[int], first: int, correlation: float
) -> list[Entity]:
    """Make one entity of every kind and name, and draw their facts."""
    cells = itertools.product(_SHARES, itertools.product(regions, *(range(len(part)) for part in PARTS)))
    ids = {cell: f"e{first + index}" for index, cell in enumerate(cells)}

    def lead_from(kind: str, parts: Parts, relation: str, target: str) -> str:
        if rng.random() < correlation:
            changed = CHANGES[relation]
            values = range(len(PARTS[0])) if changed else [region for region in regions if region != parts[0]]
            return ids[target, (*parts[:changed], rng.choice(values), *parts[changed + 1 :])]
        return rng.choice([i for (to, other), i in ids.items() if to == target and (to, other) != (kind, parts)])

    return [
        Entity(
            id=entity_id,
            name=spell(kind, *parts),
            kind=kind,
            split=split,
            facts={relation: lead_from(kind, parts, relation, to) for relation, to in RELATIONS[kind].items()},
            parts=parts,
        )
        for (kind, parts), entity_id in ids.items()
    ]
