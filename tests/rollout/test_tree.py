"""Trees of rollouts on scripted turns: who shares what, how often, and within which budgets."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.errors import ToolError
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout import branching
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.branching import TreeExpansion
from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.rollout.strategies import DynamicSampling, EntropyBranch, Independent, Tree, check_group_size
from a2tgpo.rollout.types import Rollout, Termination
from tests.rollout.scripted import ScriptedEngine

KELO = Passage("p1", "Kelo Mitu", "The mentor of Kelo Mitu is Bora Tine.")
SEARCH, AGAIN = search_turn("find it", "Kelo Mitu mentor"), search_turn("look closer", "Bora Tine mentor")
TOKENIZER = build_tokenizer()


def found(queries: list[str]) -> list[list[Passage]]:
    """The same passage for every query."""
    return [[KELO] for _ in queries]


def grow(tree, scripts, search=found, prompts=("Who?",), **limits):  # type: ignore[no-untyped-def]
    """The rollouts of `prompts`, and the backend that played `scripts`."""
    backend = ScriptedEngine(TOKENIZER, scripts)
    agent = SearchAgent(TOKENIZER, search, RolloutLimits(**({"max_searches": 3} | limits)))
    copies = [prompt for prompt in prompts for _ in range(tree.n_rollouts)]
    return agent.run(copies, backend, TreeExpansion(tree)), backend


def ids(text: str) -> list[int]:
    """Ids of `text` alone."""
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Makes the tree take these of its nodes, counted from the prompt on, instead of random ones."""

    def chosen(*indices: int) -> None:
        left = iter(indices)
        monkeypatch.setattr(branching.random, "choice", lambda nodes: nodes[next(left)])

    return chosen


def test_a_branch_shares_everything_before_its_node(choose) -> None:  # type: ignore[no-untyped-def]
    """A first rollout of three turns, a branch from its second result and one from the prompt: tokens, authorship,
    searches and node numbers up to there are the first rollout's, the rest is their own."""
    choose(2, 0)
    scripts = [[SEARCH, AGAIN, answer_turn("x")], [answer_turn("y y")], [answer_turn("z")]]
    (stem, branch, other), backend = grow(Tree(trees=1, branches=2, rounds=1), scripts)
    assert [r.nodes for r in (stem, branch, other)] == [[0, 1, 2], [0, 1, 3], [4]]
    assert [r.tree for r in (stem, branch, other)] == [0, 0, 0]
    assert [r.answer for r in (stem, branch, other)] == ["x", "y y", "z"]
    assert [len(r.calls) for r in (stem, branch, other)] == [2, 2, 0] and branch.calls == stem.calls
    n_last = len(ids(answer_turn("x"))) + 1
    shared = stem.completion_ids[:-n_last]
    assert branch.completion_ids == [*shared, *ids(answer_turn("y y")), TOKENIZER.eos_token_id]
    assert branch.model_mask[: len(shared)] == stem.model_mask[: len(shared)]
    assert sum(branch.model_mask) == len(ids(SEARCH)) + len(ids(AGAIN)) + len(ids(answer_turn("y y")))
    assert other.completion_ids == [*ids(answer_turn("z")), TOKENIZER.eos_token_id]
    assert backend.contexts[3] == [[*stem.prompt_ids, *shared], stem.prompt_ids]


def test_trees_grow_when_their_own_rollouts_have_ended(choose) -> None:  # type: ignore[no-untyped-def]
    """Two trees, two rounds of one branch: the short tree begins its branches while the long one still searches, each
    round after the other, and the rollouts come back in the order they were begun."""
    choose(0, 0, 1, 0)
    a, b = answer_turn("a"), answer_turn("b")
    # Rows in the order of their beginnings: both first rollouts, then the short tree's branches, then the long tree's.
    scripts = [[a], [SEARCH, AGAIN, b], [a], [a], [b], [b]]
    rollouts, backend = grow(Tree(trees=2, branches=1, rounds=2), scripts)
    assert [r.tree for r in rollouts] == [0, 1, 0, 0, 1, 1]
    assert [len(step) for step in backend.contexts] == [2, 2, 2, 1, 1]
    assert [r.nodes for r in rollouts] == [[0], [1, 2, 4], [3], [5], [1, 6], [7]]


def test_groups_do_not_mix(choose) -> None:  # type: ignore[no-untyped-def]
    """Of two prompts, each gets its own rollouts, in the order of the prompts, with trees numbered from 0."""
    choose(0, 1)
    x, y = answer_turn("x"), answer_turn("y")
    rollouts, _ = grow(Tree(trees=1), [[x], [SEARCH, y], [x], [y]], prompts=("Who?", "Who, then?"))
    assert [r.answer for r in rollouts] == ["x", "x", "y", "y"]
    assert rollouts[0].prompt_ids == rollouts[1].prompt_ids != rollouts[2].prompt_ids == rollouts[3].prompt_ids
    assert [r.tree for r in rollouts] == [0, 0, 0, 0]
    assert rollouts[3].nodes[0] == rollouts[2].nodes[0] and rollouts[1].nodes != rollouts[0].nodes


def test_nodes_are_drawn_evenly() -> None:
    """Among the prompt and every search that was followed by a turn, shared ones counted once, with replacement: 3,000
    draws fit (χ²), and answers are never drawn."""

    def rollout(nodes: list[int]) -> Rollout:
        made = Rollout([7], nodes=nodes)
        made.end(Termination.ANSWERED)
        return made

    rollouts = {0: rollout([0, 1, 2]), 1: rollout([0, 1, 3]), 2: rollout([0, 4, 5])}
    random.seed(0)
    tree = TreeExpansion(Tree(trees=1, branches=2, rounds=2))
    drawn = [branch for _ in range(1500) for branch in tree.branches(rollouts, {2: Turn([9])})]
    counts = Counter(tuple(rollouts[branch.parent].nodes[: branch.turn]) for branch in drawn)
    assert counts.keys() == {(), (0,), (0, 1), (0, 4)}
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_budgets_hold_in_a_branch(choose) -> None:  # type: ignore[no-untyped-def]
    """Searches and tokens of the shared beginning count: a branch may not search once more than any rollout, and its
    last turn is cut where the budget of the whole conversation ends."""
    choose(1)
    rollouts, _ = grow(Tree(trees=1), [[SEARCH, answer_turn("x")], [AGAIN]], max_searches=1)
    assert [r.termination for r in rollouts] == [Termination.ANSWERED, Termination.OUT_OF_TURNS]
    choose(1)
    room = len(rollouts[0].completion_ids) + 3
    rollouts, _ = grow(Tree(trees=1), [[SEARCH, answer_turn("x")], [answer_turn("x " * 9)]], max_completion_tokens=room)
    assert rollouts[1].termination is Termination.OUT_OF_TOKENS
    assert len(rollouts[1].completion_ids) == room - 1
    assert rollouts[1].nodes[0] == rollouts[0].nodes[0]


def test_a_failed_search_is_no_node() -> None:
    """Where the first search fails the tree has no node but its prompt, so no branch inherits the failure; where all
    fail it is an error."""
    answers = iter([False, True])

    def flaky(queries: list[str]) -> list[list[Passage]]:
        if not next(answers, False):
            raise ToolError("connection refused")
        return found(queries)

    (stem, branch), _ = grow(Tree(trees=1), [[SEARCH], [SEARCH, answer_turn("x")]], flaky)
    assert [stem.termination, branch.termination] == [Termination.TOOL_FAILED, Termination.ANSWERED]
    assert stem.nodes == [0] and branch.nodes == [1, 2]
    (stem, branch), _ = grow(Tree(trees=1), [[SEARCH], [SEARCH]], flaky)
    assert [stem.termination, branch.termination] == [Termination.TOOL_FAILED] * 2


@settings(max_examples=60, deadline=None)
@given(
    st.builds(Tree, trees=st.integers(1, 3), branches=st.integers(1, 3), rounds=st.integers(1, 3)), st.integers(0, 999)
)
def test_whatever_is_written_a_tree_is_consistent(tree: Tree, seed: int) -> None:
    """M·(L·N + 1) rollouts, L·N + 1 to a tree; equal nodes hold exactly the same tokens up to their ends and different
    ones never meet again; every turn has a node; searches and tokens stay within budget; all have ended."""
    draw = random.Random(seed)
    random.seed(seed)
    endings = [answer_turn("x"), answer_turn("kelo"), "no tags"]
    scripts = [
        [*draw.choices([SEARCH, AGAIN], k=draw.randrange(4)), draw.choice(endings)] for _ in range(tree.n_rollouts)
    ]
    rollouts, _ = grow(tree, scripts, max_searches=2, max_completion_tokens=150)
    assert len(rollouts) == tree.n_rollouts
    assert set(Counter(r.tree for r in rollouts).items()) == {
        (m, tree.rounds * tree.branches + 1) for m in range(tree.trees)
    }
    for r in rollouts:
        assert r.termination is not None and len(r.calls) <= 2 and len(r.completion_ids) <= 150
        n_turns = sum(own > last for last, own in zip([0, *r.model_mask], r.model_mask, strict=False))
        assert len(r.nodes) == n_turns
        for other in rollouts:
            n_shared = sum(a == b for a, b in zip(r.nodes, other.nodes, strict=False))
            assert r.nodes[:n_shared] == other.nodes[:n_shared]
            assert not set(r.nodes[n_shared:]) & set(other.nodes[n_shared:])
            assert not n_shared or r.tree == other.tree
            if n_shared and r is not other:
                mine, its = (x.before_turn(n_shared, x.tree).completion_ids for x in (r, other))
                assert mine[: len(its)] == its[: len(mine)]


def test_a_group_of_another_size_is_refused() -> None:
    """The message has both numbers and what to set; independent rollouts go with any number."""
    with pytest.raises(ValueError, match=r"num_generations=8: Tree.*grows 12 rollouts.*set num_generations=12"):
        check_group_size(Tree(trees=4, branches=2), 8)
    with pytest.raises(ValueError, match=r"num_generations=3: .*starts with 4 .*at least 4, or initial to at most 3"):
        check_group_size(EntropyBranch(), 3)
    for sampling in (Independent(), DynamicSampling(), Tree(), EntropyBranch(initial=8)):
        check_group_size(sampling, 8)


@pytest.mark.parametrize("prompts", [["Who?"] * 3, ["Who?", "Who, then?"]])
def test_a_group_must_be_whole(prompts: list[str]) -> None:
    """Prompts that are not copies of one by groups end the run before anything is sampled, and say what to set."""
    agent = SearchAgent(TOKENIZER, found, RolloutLimits())
    with pytest.raises(ValueError, match=r"are not 2 copies of one.*multiple of num_generations=2"):
        agent.run(prompts, ScriptedEngine(TOKENIZER, []), TreeExpansion(Tree(trees=1)))


def test_independent_rollouts_share_nothing() -> None:
    """Without an expansion every rollout is its own tree and no two turns have the same node."""
    agent = SearchAgent(TOKENIZER, found, RolloutLimits())
    scripts = [[SEARCH, answer_turn("x")], [answer_turn("x")]]
    rollouts = agent.run(["Who?"] * 2, ScriptedEngine(TOKENIZER, scripts))
    assert [r.tree for r in rollouts] == [0, 1]
    assert [r.nodes for r in rollouts] == [[0, 2], [1]]
