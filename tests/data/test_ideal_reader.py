"""Worlds with regions: what a passage says about an answer not yet reached, against frequencies and closed forms."""

from __future__ import annotations

import hashlib
import json
import math
import random
from statistics import fmean, stdev

import pytest

from a2tgpo.data.ideal_reader import IdealReader
from a2tgpo.data.names import REGIONS, SYLLABLES, split_syllables
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.data.world import Chain, World
from a2tgpo.errors import DataError
from a2tgpo.retrieval.bm25 import BM25Retriever

WORLDS = 40


def chains(correlation: float, hops: int, per_world: int = 25) -> list[tuple[IdealReader, Chain]]:
    """Chains of many worlds, so that no single draw of facts decides."""
    found = []
    for seed in range(WORLDS):
        world = World.generate(seed, 200, 0, correlation)
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


def test_a_region_is_read_off_a_name() -> None:
    """Every name begins as its region does, is found by its words as before, and is spelled in known tokens."""
    world = World.generate(1, 160, 80, correlation=0.7)
    assert {entity.region for entity in world.entities} == set(range(8))
    words = [word for entity in world.entities for word in entity.name.split()[: 1 + (entity.kind == "person")]]
    assert len(words) == len(set(words))
    for entity in world.entities:
        assert entity.region is not None
        first, second = REGIONS[entity.region]
        if entity.kind == "place":
            assert split_syllables(entity.name)[:2] == [first, second]
        else:
            named = entity.name.split()[: 1 + (entity.kind == "person")]
            assert [split_syllables(word)[0] for word in named] == [first] * len(named)
    retriever = BM25Retriever.from_passages(world.passages, title_weight=3)
    for entity in world.entities[::7]:
        assert retriever.search([entity.name], 1)[0][0].passage.id == entity.id
    assert {syllable for region in REGIONS for syllable in region} <= set(SYLLABLES)


def test_facts_stay_in_the_region_as_often_as_asked() -> None:
    """The share of facts that stay is c + (1 − c)·(own share), within three standard errors."""
    world = World.generate(2, 640, 0, correlation=0.6)
    stays = [world[to].region == entity.region for entity in world.entities for to in entity.facts.values()]
    expected = 0.6 + 0.4 / 8
    assert abs(fmean(stays) - expected) < 3 * math.sqrt(expected * (1 - expected) / len(stays))


@pytest.mark.parametrize("hops", [2, 3, 4])
@pytest.mark.parametrize("correlation", [0.3, 0.8])
def test_the_reader_is_calibrated(hops: int, correlation: float) -> None:
    """Before reading and after each passage the belief sums to 1, and what it calls likely happens as often as it says.

    Checked on whether the answer lies in the region read last, over a thousand chains of forty worlds.
    """
    sample = chains(correlation, hops)
    for n_read in range(hops):
        believed, happened = [], []
        for reader, chain in sample:
            belief = reader.belief(chain, n_read)
            assert belief.min() >= 0 and belief.sum() == pytest.approx(1)
            region = chain.entities[n_read].region
            assert region is not None
            believed.append(belief[region])
            happened.append(chain.entities[-1].region == region)
        error = math.sqrt(fmean(p * (1 - p) for p in believed) / len(believed))
        assert abs(fmean(happened) - fmean(believed)) < 3.5 * error


def test_belief_in_closed_form() -> None:
    """With equal regions and different kinds the answer is in the region with c^h + (1 − c^h)/R."""
    world = World.generate(5, 640, 0, correlation=0.7)
    reader = IdealReader(world)
    path = ("employer", "founder", "birthplace")
    chain = next(c for c in world.chains(random.Random(0), "train", (3,), 200) if c.relations == path)
    for n_read, left in enumerate((3, 2, 1)):
        region = chain.entities[n_read].region
        assert region is not None
        assert reader.belief(chain, n_read)[region] == pytest.approx(0.7**left + (1 - 0.7**left) / 8)


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_evidence_accumulates(hops: int) -> None:
    """With correlation the true gain is positive at every hop in the mean, by five standard errors and more."""
    gains = [reader.gains(chain) for reader, chain in chains(0.8, hops)]
    for turn in zip(*gains, strict=True):
        assert fmean(turn) > 5 * stdev(turn) / math.sqrt(len(turn))


@pytest.mark.parametrize("hops", [2, 3, 4])
def test_without_correlation_only_the_last_hop_tells(hops: int) -> None:
    """In today's world no passage before the last says anything of the answer: gains of exactly 0, then all of it."""
    for reader, chain in chains(0.0, hops, per_world=3):
        *before, last = reader.gains(chain)
        assert before == [0.0] * (hops - 1)
        assert last == pytest.approx(1 - reader.likelihood(chain, 0)) and last > 0.9


@pytest.mark.parametrize(
    ("kind", "n_tokens", "left"), [("place", 3, 1 / 158), ("person", 4, 1 / 159**2), ("organisation", 3, 1 / 159 / 4)]
)
def test_the_likelihood_is_that_of_the_tokenizers_tokens(kind: str, n_tokens: int, left: float) -> None:
    """By hand, with 160 syllables and 4 kinds of organisation: the region's probability, and what it leaves open."""
    world = World.generate(5, 160, 0, correlation=0.5)
    reader = IdealReader(world)
    chain = next(c for c in world.chains(random.Random(0), "train", (2,), 100) if c.entities[-1].kind == kind)
    answer = chain.entities[-1]
    assert len(build_tokenizer()(answer.name, add_special_tokens=False)["input_ids"]) == n_tokens
    expected = (reader.belief(chain, 1)[answer.region or 0] * left) ** (1 / n_tokens)
    assert reader.likelihood(chain, 1) == pytest.approx(expected)
    assert reader.likelihood(chain, 2) == 1.0


@pytest.mark.parametrize("correlation", [-0.1, 1.1, float("nan")])
def test_a_correlation_is_a_probability(correlation: float) -> None:
    """Anything else is refused."""
    with pytest.raises(DataError, match="correlation="):
        World.generate(0, 40, 0, correlation)
