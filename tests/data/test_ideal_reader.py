"""Worlds with regions: what a passage says about an answer not yet reached, against frequencies and closed forms."""

from __future__ import annotations

import hashlib
import json
import math
import random
from statistics import fmean, stdev

import pytest

from a2tgpo.data.demonstrations import Imperfection, demonstrate_hops
from a2tgpo.data.ideal_reader import IdealReader
from a2tgpo.data.names import ORGANISATION_KINDS, PARTS, REGIONS, SYLLABLES
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.data.world import CHANGES, RELATIONS, Chain, World
from a2tgpo.errors import DataError
from a2tgpo.retrieval.bm25 import BM25Retriever

WORLDS = 20


def chains(correlation: float, hops: int, per_world: int = 50, regions: int = 4) -> list[tuple[IdealReader, Chain]]:
    """Chains of many worlds, so that no single draw of facts decides."""
    found = []
    for seed in range(WORLDS):
        world = World.generate(seed, 81 * regions, 0, correlation)
        reader = IdealReader(world)
        found += [(reader, chain) for chain in world.chains(random.Random(seed), "train", (hops,), per_world)]
    return found


@pytest.mark.parametrize(
    ("seed", "n_train", "n_eval", "digest"), [(3, 40, 24, "a43f688852226cc0"), (0, 400, 200, "cf8dfe1a184687f7")]
)
def test_without_correlation_the_world_is_the_old_one(seed: int, n_train: int, n_eval: int, digest: str) -> None:
    """Names, facts and questions are those of before regions existed, recorded then."""
    world = World.generate(seed, n_train, n_eval, correlation=0.0)
    entities = [[e.id, e.name, e.kind, e.split, dict(e.facts)] for e in world.entities]
    text = json.dumps(entities + world.questions("train", (1, 2, 3), 20, seed=5))
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_a_name_spells_its_parts() -> None:
    """Every kind has every name of its regions once; it has one token a part, in no two places the same; the splits
    share no region; and a search for a name finds its passage first."""
    world = World.generate(1, 250, 170, correlation=0.7)
    assert len(world.entities) == 3 * 81 + 2 * 81
    assert len({entity.name for entity in world.entities}) == len(world.entities)
    tokenizer = build_tokenizer()
    for entity in world.entities:
        assert entity.parts is not None
        region, *others = entity.parts
        spelled = [REGIONS[region], *(part[index] for part, index in zip(PARTS, others, strict=True))]
        if entity.kind == "organisation":
            spelled[3] = ORGANISATION_KINDS[others[2]].lower()
        tokens = tokenizer.convert_ids_to_tokens(tokenizer(entity.name, add_special_tokens=False)["input_ids"])
        assert [token.removeprefix("##") for token in tokens] == spelled
    syllables = [*REGIONS, *(syllable for part in PARTS for syllable in part)]
    assert len(set(syllables)) == len(syllables) and set(syllables) <= set(SYLLABLES)
    in_split = [{e.parts[0] for e in world.entities if e.split == split and e.parts} for split in ("train", "eval")]
    assert [len(regions) for regions in in_split] == [3, 2] and not in_split[0] & in_split[1]
    retriever = BM25Retriever.from_passages(world.passages, title_weight=3)
    found = retriever.search([entity.name for entity in world.entities], 1)
    assert [hits[0].passage.id for hits in found] == [entity.id for entity in world.entities]


def test_facts_keep_to_the_rule_as_often_as_asked() -> None:
    """The share of facts that change their relation's part and no other is the correlation, and chance for those that
    lead anywhere, within three standard errors; with 1 all do."""
    for correlation in (0.6, 1.0):
        world = World.generate(2, 81 * 6, 0, correlation)
        kept = []
        for entity in world.entities:
            for relation, to in entity.facts.items():
                start, end = entity.parts, world[to].parts
                assert start is not None and end is not None and world[to].kind == RELATIONS[entity.kind][relation]
                differ = {part for part in range(4) if start[part] != end[part]}
                kept.append(differ == {0} if CHANGES[relation] == 0 else differ <= {CHANGES[relation]})
        anywhere = (
            27 / 7 / 162
        )  # of seven relations three lead to five other regions and four to three values of a part
        expected = correlation + (1 - correlation) * anywhere
        assert abs(fmean(kept) - expected) <= 3 * math.sqrt(expected * max(0.0, 1 - expected) / len(kept))


def test_no_part_changes_twice() -> None:
    """In a world with regions the relations of a question change different parts, and of three hops there are twenty
    kinds of question; without regions they may change any."""
    world = World.generate(0, 324, 0, correlation=1.0)
    asked = [chain.relations for chain in world.chains(random.Random(0), "train", (3,), 900)]
    assert all(len({CHANGES[relation] for relation in relations}) == 3 for relations in asked)
    assert len(set(asked)) == 20


@pytest.mark.parametrize("hops", [2, 3, 4])
@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_the_reader_is_calibrated(hops: int, correlation: float) -> None:
    """Before reading and after each passage the belief sums to 1, and what it calls likely happens as often as it says:
    the answer is the reader's first choice, and of the region read last, over a thousand chains of twenty worlds."""
    sample = chains(correlation, hops)
    for n_read in range(hops):
        likeliest, region = [], []
        for reader, chain in sample:
            belief = reader.belief(chain, n_read)
            assert belief.min() >= 0 and belief.sum() == pytest.approx(1)
            names = reader.entities[chain.entities[-1].kind]
            first = int(belief.argmax())
            likeliest.append((float(belief[first]), names[first] == chain.entities[-1]))
            here = [name.parts[0] == chain.entities[n_read].parts[0] for name in names]  # type: ignore[index]
            answer = chain.entities[-1].parts
            assert answer is not None
            region.append((float(belief[here].sum()), answer[0] == chain.entities[n_read].parts[0]))  # type: ignore[index]
        for pairs in (likeliest, region):
            believed, happened = zip(*pairs, strict=True)
            error = math.sqrt(fmean(p * (1 - p) for p in believed) / len(pairs))
            assert abs(fmean(happened) - fmean(believed)) <= 4 * error


def test_belief_in_closed_form() -> None:
    """Where every fact keeps to the rule, the answer is one of as many names as the relations still to come allow:
    three for a part, the other regions for the region."""
    world = World.generate(5, 81 * 5, 0, correlation=1.0)
    reader = IdealReader(world)
    path = ("employer", "founder", "birthplace")  # parts 1, 0, 2
    chain = next(c for c in world.chains(random.Random(0), "train", (3,), 400) if c.relations == path)
    for n_read, possible in enumerate((3 * 4 * 3, 4 * 3, 3)):
        belief = reader.belief(chain, n_read)
        assert sorted(set(belief.round(12))) == pytest.approx([0, 1 / possible])
        assert (belief > 0).sum() == possible
        assert reader.likelihood(chain, n_read) == pytest.approx(possible**-0.25)
    assert reader.likelihood(chain, 3) == 1.0


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_evidence_accumulates(hops: int) -> None:
    """In the world of the recipes, eight regions and every fact by the rule, each hop before the last gains .1 and more
    in the mean, and gains differ by .03 and more (standard deviation)."""
    gains = [reader.gains(chain) for reader, chain in chains(1.0, hops, per_world=20, regions=8)]
    for turn in zip(*gains, strict=True):
        assert fmean(turn) > 0.1 and stdev(turn) > 0.03


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_without_correlation_only_the_last_hop_tells(hops: int) -> None:
    """Without regions no passage before the last says anything of the answer: gains of exactly 0, then all of it."""
    for seed in range(10):
        world = World.generate(seed, 200, 0, 0.0)
        reader = IdealReader(world)
        for chain in world.chains(random.Random(seed), "train", (hops,), 3):
            *before, last = reader.gains(chain)
            assert before == [0.0] * (hops - 1)
            assert last == pytest.approx(1 - reader.likelihood(chain, 0)) and last > 0.9


def test_who_stops_early_guesses_what_is_still_possible() -> None:
    """A demonstration that ends before the last hop in a world with regions answers with what the passages leave
    possible: right more often than one name in all, and never with the wrong kind of name."""
    shown = list(demonstrate_hops(600, hops=(3,), imperfection=Imperfection(1.0, 0.0, 0.0), correlation=1.0))
    assert {len(demonstration.lookups) for demonstration in shown} == {1, 2}
    for demonstration in shown:
        last = demonstration.lookups[-1]
        relation, _, _ = demonstration.question.split(" is the ")[1].partition(" of ")
        kind = next(to for ways in RELATIONS.values() for name, to in ways.items() if name == relation)
        looks = "organisation" if demonstration.answer.split()[-1] in ORGANISATION_KINDS else "person"
        assert kind == (looks if " " in demonstration.answer else "place")
        if len(demonstration.lookups) == 2:
            found = next(p for p in last.passages if p.title == last.query)
            assert _shared_tokens(found.text, demonstration.answer) >= 2


def _shared_tokens(text: str, name: str) -> int:
    words = name.lower().replace(" ", "")
    syllables = [s for s in (*REGIONS, *(x for part in PARTS for x in part)) if s in words]
    return sum(syllable in text.lower() for syllable in syllables)


@pytest.mark.parametrize("correlation", [-0.1, 1.1, float("nan")])
def test_a_correlation_is_a_probability(correlation: float) -> None:
    """Anything else is refused."""
    with pytest.raises(DataError, match="correlation="):
        World.generate(0, 40, 0, correlation)


@pytest.mark.parametrize(
    ("n_train", "n_eval", "said"), [(161, 0, "n_train=161"), (162, 40, "n_eval=40"), (1944, 162, "24")]
)
def test_regions_are_whole(n_train: int, n_eval: int, said: str) -> None:
    """A split without two regions to choose from is refused, and so are more regions than there are."""
    with pytest.raises(DataError, match=said):
        World.generate(0, n_train, n_eval, 1.0)
