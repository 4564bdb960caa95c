"""Scripted agents: what they do right, what they get wrong, and how often."""

from __future__ import annotations

from itertools import pairwise

import pytest

from a2tgpo.data.demonstrations import Imperfection, demonstrate_hops
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.errors import DataError
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.demonstration import Demonstration, encode_demonstration
from a2tgpo.rollout.protocol import answer_turn, search_turn

_PERFECT = Imperfection(no_results=0.0)
_CLUMSY = Imperfection(stops_early=0.4, wrong_hop=0.3, no_results=0.2)


def _hops(demonstration: Demonstration) -> int:
    return demonstration.question.count(" of ")


def _start(demonstration: Demonstration) -> str:
    return demonstration.question.removesuffix("?").rsplit(" of ", 1)[1]


def test_the_seed_decides_everything() -> None:
    """One seed gives the same demonstrations, also when more of them are asked for; another seed, others."""
    shown = list(demonstrate_hops(40, seed=1, imperfection=_CLUMSY))
    assert shown == list(demonstrate_hops(40, seed=1, imperfection=_CLUMSY))
    assert shown != list(demonstrate_hops(40, seed=2, imperfection=_CLUMSY))
    assert [_hops(d) for d in shown[:6]] == [1, 2, 3, 1, 2, 3]


def test_no_hop_count_is_refused() -> None:
    """As `World.chains` refuses it."""
    with pytest.raises(DataError, match=r"hops=\(\): give one or more positive hop counts"):
        next(demonstrate_hops(1, hops=()))


def test_a_perfect_agent_reads_its_way_to_the_answer() -> None:
    """Without imperfection each search finds the passage that states the next name, and the last states the answer."""
    for shown in demonstrate_hops(60, imperfection=_PERFECT):
        assert len(shown.lookups) == _hops(shown)
        names = [*(lookup.query for lookup in shown.lookups), shown.answer]
        assert names[0] == _start(shown)
        for lookup, (name, following) in zip(shown.lookups, pairwise(names), strict=True):
            relation = lookup.thought.removeprefix("I need the ").split(" of ")[0]
            found = next(passage for passage in lookup.passages if passage.title == name)
            assert f"The {relation} of {name} is {following}." in found.text
            assert f"the {relation} of" in shown.question


def test_stopping_early() -> None:
    """Every demonstration of two hops or more that stops early answers with a name found on the way."""
    for shown in demonstrate_hops(30, hops=(2, 3), imperfection=Imperfection(stops_early=1.0, no_results=0.0)):
        assert 1 <= len(shown.lookups) < _hops(shown)
        last = shown.lookups[-1]
        assert any(f" of {last.query} is {shown.answer}." in passage.text for passage in last.passages)


def test_a_wrong_hop_is_an_extra_search() -> None:
    """The agent follows another fact of the passage it read, then searches for the right name after all."""
    for shown in demonstrate_hops(30, hops=(2,), imperfection=Imperfection(wrong_hop=1.0, no_results=0.0)):
        first, wrong, right = shown.lookups
        read = next(passage.text for passage in first.passages if passage.title == first.query)
        assert wrong.query != right.query
        assert f" is {wrong.query}." in read and f" is {right.query}." in read


def test_nothing_found_is_corrected() -> None:
    """A mistyped name finds nothing and is followed by the same search spelled right."""
    mistyped = 0
    for shown in demonstrate_hops(40, imperfection=Imperfection(no_results=1.0)):
        for lookup, following in pairwise(shown.lookups):
            if not lookup.passages:
                mistyped += 1
                assert sorted(lookup.query.lower()) == sorted(following.query.split()[0].lower())
                assert lookup.thought == following.thought and following.passages
        assert shown.lookups[-1].passages
    assert mistyped >= 60


def test_shares_are_as_asked() -> None:
    """Over many demonstrations each error has its probability, within three standard errors."""
    shown = list(demonstrate_hops(500, hops=(2,), imperfection=Imperfection(stops_early=0.4, no_results=0.0)))
    early = sum(len(d.lookups) == 1 for d in shown) / len(shown)
    assert abs(early - 0.4) < 0.066
    shown = list(demonstrate_hops(500, hops=(1,), imperfection=Imperfection(no_results=0.2)))
    empty = sum(len(d.lookups) == 2 for d in shown) / len(shown)
    assert abs(empty - 0.2) < 0.054


def test_names_do_not_last() -> None:
    """No name is asked about in more than a handful of demonstrations, so none can be learned by heart."""
    starts = [_start(d) for d in demonstrate_hops(320)]
    assert max(starts.count(name) for name in starts) <= 4


def test_the_mask_is_the_policy_s_text() -> None:
    """The unmasked tokens are exactly the turns, each tokenised alone, and they end with the scorer's scaffold."""
    tokenizer = build_tokenizer()
    agent = SearchAgent(tokenizer, lambda queries: [[] for _ in queries], RolloutLimits())
    for shown in demonstrate_hops(20, imperfection=_CLUMSY):
        encoded = encode_demonstration(agent, shown)
        written = [i for i, mine in zip(encoded["input_ids"], encoded["completion_mask"], strict=True) if mine]
        turns = [search_turn(lookup.thought, lookup.query) for lookup in shown.lookups]
        turns.append(answer_turn(shown.answer))
        tokens = [agent.encode_turn(turn) for turn in turns]
        assert written == [token for turn in tokens for token in turn]
        assert encoded["input_ids"][-1] == tokenizer.eos_token_id and not encoded["completion_mask"][-1]
        assert encoded["input_ids"][-len(tokens[-1]) - 1 : -1] == tokens[-1]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_zero_to_one(share: float) -> None:
    """An impossible probability is refused by name."""
    with pytest.raises(DataError, match="wrong_hop"):
        Imperfection(wrong_hop=share)
