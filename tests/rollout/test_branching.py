"""Branching by entropy on scripted turns: the rule by hand, and which rollouts it begins."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from a2tgpo.rollout import branching
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.branching import EntropyExpansion
from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.strategies import EntropyBranch
from a2tgpo.rollout.types import Rollout, Termination
from tests.rollout.scripted import ScriptedEngine
from tests.rollout.test_tree import AGAIN, SEARCH, TOKENIZER, found, ids


def turn(text: str, *entropies: float) -> Turn:
    """A turn whose first tokens have these entropies."""
    return Turn(ids(text), list(entropies))


def grow(rule: EntropyBranch, scripts: Sequence[Sequence[Turn]], **limits: int) -> list[Rollout]:
    """The rollouts of one prompt, as many as scripts."""
    agent = SearchAgent(TOKENIZER, found, RolloutLimits(**({"max_searches": 3} | limits)))
    return agent.run(["Who?"] * len(scripts), ScriptedEngine(TOKENIZER, scripts), EntropyExpansion(rule, len(scripts)))


@pytest.mark.parametrize(
    ("rule", "rise", "consecutive", "probability"),
    [
        (EntropyBranch(), 0.0, 0, 0.5),
        (EntropyBranch(), 0.5, 0, 0.67),
        (EntropyBranch(), 0.0, 2, 1 - 0.5 / 0.9),
        (EntropyBranch(), 0.5, 2, 1 - 0.5 / 0.9 + 0.17),
        (EntropyBranch(), -2.0, 0, 0.0),
        (EntropyBranch(), 2.0, 0, 1.0),
        (EntropyBranch(), 0.0, 10, 0.0),
        (EntropyBranch(threshold=0.2, damping=0.25), 0.0, 2, 0.6),
        (EntropyBranch(damping=0.5), 9.0, 2, 0.0),
        (EntropyBranch(damping=0.0), 0.0, 99, 0.5),
        (EntropyBranch(threshold=0.0), 0.0, 3, 1.0),
        (EntropyBranch(threshold=1.0, weight=0.0), 9.0, 0, 0.0),
    ],
)
def test_the_probability_by_hand(rule: EntropyBranch, rise: float, consecutive: int, probability: float) -> None:
    """1 − τ/(1 − d·l) + w·(H − H₁), cut to [0, 1]; nothing once the damping has reached 1."""
    assert rule.probability(rise, consecutive) == pytest.approx(probability)


@pytest.mark.parametrize("rise", [-0.7, 0.0, 0.4, 1.9])
@pytest.mark.parametrize("consecutive", [0, 1, 6, 19, 25])
def test_the_probability_is_that_of_the_published_inequality(rise: float, consecutive: int) -> None:
    """Of 100,001 even u in [0, 1], the share with (u + w·(H − H₁))·max(0, 1 − d·l) ≥ τ."""
    rule, n = EntropyBranch(), 100_000
    share = sum(
        (u / n + rule.weight * rise) * max(0, 1 - rule.damping * consecutive) >= rule.threshold for u in range(n + 1)
    )
    assert rule.probability(rise, consecutive) == pytest.approx(share / n, abs=2e-5)


def test_rollouts_branch_until_there_are_enough() -> None:
    """With a rule that always branches: a copy after the first result and one after the second, and then there are
    three; shared turns have one node, and each copy has the searches it inherits."""
    x = turn(answer_turn("x"), 0.1)
    scripts = [[turn(SEARCH, 0.1), turn(AGAIN, 0.1), x], [x], [x]]
    rollouts = grow(EntropyBranch(initial=1, threshold=0.0), scripts)
    assert [r.nodes for r in rollouts] == [[0, 1, 3], [0, 2], [0, 1, 4]]
    assert [[call.query for call in r.calls] for r in rollouts] == [
        ["kelo mitu mentor", "bora tine mentor"],
        ["kelo mitu mentor"],
        ["kelo mitu mentor", "bora tine mentor"],
    ]
    assert [r.tree for r in rollouts] == [0, 0, 0]
    assert rollouts[2].completion_ids == rollouts[0].completion_ids


def test_a_beam_of_four_goes_on_in_four_ways() -> None:
    """Three copies at once, if there is room for them."""
    x = turn(answer_turn("x"), 0.1)
    rollouts = grow(EntropyBranch(initial=1, beam=4, threshold=0.0), [[turn(SEARCH, 0.1), x], [x], [x], [x]])
    assert [r.nodes for r in rollouts] == [[0, 1], [0, 2], [0, 3], [0, 4]]


def test_what_the_rule_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """H is the mean over the first `entropy_tokens` tokens, H₁ the first turn's own, also in a copy, and l counts the
    turns above without a gap: 0, then 1 and 1 after the first branched, then 0 where the second did not and 2 where it
    did. Answers are not asked about."""
    asked: list[tuple[float, int]] = []
    branch = iter([True, False, True, False, False])

    def probability(self: EntropyBranch, rise: float, consecutive: int) -> float:
        asked.append((round(rise, 6), consecutive))
        return float(next(branch))

    monkeypatch.setattr(EntropyBranch, "probability", probability)
    first, x = turn(SEARCH, 0.2, 0.4, 99.0), turn(answer_turn("x"), 5.0, 5.0)
    scripts = [
        [first, turn(AGAIN, 0.5, 0.7), turn(AGAIN, 0.3, 0.3), x],
        [turn(SEARCH, 1.0, 0.0), turn(SEARCH, 0.1, 0.3), x],
        [x],
        [x],
    ]
    rollouts = grow(EntropyBranch(initial=1, entropy_tokens=2), scripts)
    assert asked == [(0.0, 0), (0.3, 1), (0.2, 1), (0.0, 0), (-0.1, 2)]
    # Row 1 is a copy of row 0, row 2 one of row 1; the fourth began when all had ended.
    assert [r.nodes for r in rollouts] == [[0, 1, 3, 6], [0, 2, 4, 7], [0, 2, 5], [8]]
    assert [r.tree for r in rollouts] == [0, 0, 0, 1]


def test_what_is_missing_is_sampled_from_the_prompt() -> None:
    """A rule that never branches: the rest begins, all at once, when the first ones have ended, as trees of their own,
    sharing nothing."""
    x = turn(answer_turn("x"), 0.1)
    rollouts = grow(EntropyBranch(initial=2, threshold=1.0, weight=0.0), [[turn(SEARCH, 3.0), x], [x], [x], [x]])
    assert [r.nodes for r in rollouts] == [[0, 2], [1], [3], [4]]
    assert [r.tree for r in rollouts] == [0, 1, 2, 3]
    assert [len(r.calls) for r in rollouts] == [1, 0, 0, 0]


def test_a_rollout_that_has_ended_does_not_branch() -> None:
    """Neither an answer nor a search over the budget leaves anything to go on from."""
    x = turn(answer_turn("x"), 0.1)
    rollouts = grow(EntropyBranch(initial=2, threshold=0.0), [[turn(SEARCH, 0.1)], [x], [x]], max_searches=0)
    assert [r.termination for r in rollouts] == [Termination.OUT_OF_TURNS, Termination.ANSWERED, Termination.ANSWERED]
    assert [r.nodes for r in rollouts] == [[0], [1], [2]]


def test_chance_decides_at_the_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw below the probability branches, one at it does not."""
    x = turn(answer_turn("x"), 0.1)
    for draw, nodes in ((0.4999, [0, 2]), (0.5, [2])):
        monkeypatch.setattr(branching.random, "random", lambda draw=draw: draw)
        rollouts = grow(EntropyBranch(initial=1), [[turn(SEARCH, 0.1), x], [x]])
        assert rollouts[1].nodes == nodes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 0}, "initial is 0; pass at least 1"),
        ({"beam": 1}, "beam is 1; pass at least 2"),
        ({"entropy_tokens": 0}, "entropy_tokens is 0; pass at least 1"),
        ({"weight": -0.1}, "weight is -0.1; pass at least 0"),
        ({"threshold": 1.2}, "threshold is 1.2; pass a number between 0"),
        ({"damping": -1}, "damping is -1; pass a number between 0"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    """By name and value, with what to pass."""
    with pytest.raises(ValueError, match=message):
        EntropyBranch(**options)
