"""Each credit rule against its equations: slow loops on random batches, and numbers worked out by hand."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo import core

from . import slow_rules
from .batches import batches, pack, padded
from .slow import Rollout

seeds, gammas = st.integers(0, 999), st.sampled_from([0.0, 0.95, 1.0])
stds = st.sampled_from(["population", "sample"])


def lost(batch, seed):
    """The batch, half of the time with its first rollout not valid."""
    return [batch[0].but(valid=False), *batch[1:]] if seed % 2 else batch


def extras(batch, seed):
    """Random states, trees and entropies, in the lists of the slow rules and in tensors."""
    chance, width = random.Random(seed), max(len(r.gains) for r in batch)
    cells = len(batch) * width
    states = [[chance.randint(-1, min(3, cells - 1)) for _ in r.gains] for r in batch]
    trees = [chance.randint(0, min(1, len(batch) - 1)) for _ in batch]
    entropies = [[chance.random() for _ in r.gains] for r in batch]
    tensors = {
        "state": padded(states, width, fill=-1, dtype=torch.long),
        "tree": torch.tensor(trees),
        "entropy": padded(entropies, width, fill=float("nan")),
    }
    return states, trees, entropies, tensors


def assert_advantage(rule, batch, expected, **tensors):
    credit = rule(core.TurnBatch(**pack(batch), **tensors))
    target = padded(expected, credit.advantage.shape[1])
    torch.testing.assert_close(credit.advantage, target, rtol=0, atol=1e-9)
    assert (credit.clip_scale == 1).all()
    return credit


@given(batch=batches(), seed=seeds, std=stds)
def test_outcome(batch, seed, std):
    """Every turn has the outcome, normalised in its prompt."""
    batch = lost(batch, seed)
    assert_advantage(core.OutcomeCredit(std), batch, slow_rules.outcome(batch, std == "sample"))


@given(batch=batches(), seed=seeds, norm=st.sampled_from(["joint", "separate"]), gamma=gammas)
def test_igpo(batch, seed, norm, gamma):
    """Gains and outcome, normalised in one pool or in two, summed to the end with a discount."""
    batch = lost(batch, seed)
    assert_advantage(core.IgpoCredit(norm, gamma), batch, slow_rules.igpo(batch, norm, gamma))


@given(batch=batches(), seed=seeds, norm=st.sampled_from(["mean", "std"]), std=stds, gamma=gammas)
def test_gigpo(batch, seed, norm, std, gamma):
    """The episode against its prompt, and each return against those of turns from the same state."""
    batch = lost(batch, seed)
    states, _, _, tensors = extras(batch, seed)
    rule = core.GigpoCredit(weight=0.5, gamma=gamma, norm=norm, std=std)
    expected = slow_rules.gigpo(batch, states, 0.5, gamma, norm, std == "sample")
    assert_advantage(rule, batch, expected, state=tensors["state"])


@given(batch=batches(), seed=seeds, weight=st.sampled_from([0.0, 0.3, 1.0]), gamma=gammas)
def test_mica(batch, seed, weight, gamma):
    """Immediate gains compared over the prompt, returns compared at their depth, mixed."""
    batch = lost(batch, seed)
    assert_advantage(core.MicaCredit(weight, gamma), batch, slow_rules.mica(batch, weight, gamma))


@given(batch=batches(), seed=seeds, alpha=st.sampled_from([0.0, 0.5, 2.0]), gamma=gammas)
def test_returns(batch, seed, alpha, gamma):
    """Gains as they are, summed to the end with a discount, beside the outcome normalised in its prompt."""
    batch = lost(batch, seed)
    assert_advantage(core.ReturnCredit(alpha, gamma), batch, slow_rules.returns(batch, alpha, gamma))


@given(batch=batches(), seed=seeds, std=stds)
def test_tree(batch, seed, std):
    """The outcome among the leaves of the tree plus the outcome among all leaves of the prompt."""
    batch = lost(batch, seed)
    _, trees, _, tensors = extras(batch, seed)
    assert_advantage(core.TreeCredit(std), batch, slow_rules.tree(batch, trees, std == "sample"), tree=tensors["tree"])


@given(batch=batches(), seed=seeds, std=stds)
def test_entropy(batch, seed, std):
    """The outcome, scaled by the normalised entropy of the turn; entropies of padding are not read."""
    batch = lost(batch, seed)
    _, _, entropies, tensors = extras(batch, seed)
    expected = slow_rules.aepo(batch, entropies, 0.3, std == "sample")
    assert_advantage(core.EntropyCredit(0.3, std), batch, expected, entropy=tensors["entropy"])


@given(batch=batches(), seed=seeds, gamma=gammas, first_gain=st.booleans())
def test_release(batch, seed, gamma, first_gain):
    """Advantages and clip scales of the release, with gains of 0, turns without gain and rollouts left out."""
    batch = lost(batch, seed)
    arguments = pack(batch)
    credit = core.ReleaseCredit(0.3, gamma, 0.4, first_gain)(core.TurnBatch(**arguments))
    advantages, scales = slow_rules.release(batch, 0.3, gamma, 0.4, first_gain)
    width = arguments["gain"].shape[1]
    torch.testing.assert_close(credit.advantage, padded(advantages, width), rtol=0, atol=1e-9)
    torch.testing.assert_close(credit.clip_scale, padded(scales, width, fill=1.0), rtol=0, atol=1e-9)


@given(batch=batches(), seed=seeds)
def test_count_once(batch, seed):
    """Each sampled turn has one owner, the first valid rollout through it, and the mean credit of all of them."""
    batch, chance, width = lost(batch, seed), random.Random(seed), max(len(r.gains) for r in batch)
    # Rollouts of a prompt that share a turn share those before it: a node is the path of choices that led there.
    paths = [
        [tuple(row[: t + 1]) for t in range(len(row))]
        for row in ([chance.randint(0, 1) for _ in r.gains] for r in batch)
    ]
    names = {path: i for i, path in enumerate(sorted({path for row in paths for path in row}))}
    nodes = [[names[path] for path in row] for row in paths]
    arguments = pack(batch)
    credit = core.turn_credit(**arguments)
    node = padded(nodes, width, fill=-1, dtype=torch.long)
    with pytest.warns(DeprecationWarning, match="share_turns"):
        shared, owned = core.count_once(credit, node, arguments["group"], arguments["valid"])
    for value, actual in zip(credit[:2], shared[:2], strict=True):
        means, owners = slow_rules.count_once(batch, value.tolist(), nodes)
        target = padded(means, width)
        torch.testing.assert_close(torch.where(node >= 0, actual, 0), target, rtol=0, atol=1e-12)
    assert torch.equal(owned, padded(owners, width, fill=False, dtype=torch.bool))


PAIR = [Rollout(0, (1.0, None), 3.0), Rollout(0, (-1.0, None), -3.0)]
FIVE = 5**0.5
BY_HAND = {
    # One pool {1, 3, −1, −3}: mean 0, std √5. Two pools: both std 1 and 3.
    "igpo joint": (core.IgpoCredit("joint", 0.5), PAIR, {}, [[2.5 / FIVE, 3 / FIVE], [-2.5 / FIVE, -3 / FIVE]]),
    "igpo separate": (core.IgpoCredit("separate", 0.5), PAIR, {}, [[1.5, 1.0], [-1.5, -1.0]]),
    # Episode ±3. Returns 0.95·(±3) from state 0, which both start in; each of the other states is met once.
    "gigpo": (
        core.GigpoCredit(),
        PAIR,
        {"state": torch.tensor([[0, 1], [0, 2]])},
        [[3 + 2.85, 3.0], [-3 - 2.85, -3.0]],
    ),
    # Gains {.3, .1, .1, −.1}: mean .1, std √.02. Returns .4 against 0, and .1 against −.1: ±1.
    "mica": (
        core.MicaCredit(),
        [Rollout(0, (0.3, 0.1), 1.0), Rollout(0, (0.1, -0.1), 1.0)],
        {},
        [[0.5 + 0.5**0.5, 0.5], [-0.5, -0.5 - 0.5**0.5]],
    ),
    # Returns .3 + .5·.1 and .1, −.05 and −.1; both outcomes alike, so R̂ = 0.
    "turn-returns": (
        core.ReturnCredit(gamma=0.5),
        [Rollout(0, (0.3, 0.1), 1.0), Rollout(0, (0.0, -0.1), 1.0)],
        {},
        [[0.35, 0.1], [-0.05, -0.1]],
    ),
    # Tree 0 holds {1, 0}, tree 1 {0, 0}; together mean 1/4, std √3/4.
    "tree-grpo": (
        core.TreeCredit(),
        [Rollout(0, (None,), 1.0), *[Rollout(0, (None,), 0.0)] * 3],
        {"tree": torch.tensor([0, 0, 1, 1])},
        [[1 + 3**0.5], [-1 - 3**-0.5], [-(3**-0.5)], [-(3**-0.5)]],
    ),
    # Entropies {2, 0, 2, 0}: ±1.
    "aepo": (
        core.EntropyCredit(),
        PAIR,
        {"entropy": torch.tensor([[2.0, 0.0], [2.0, 0.0]])},
        [[1.2, 0.8], [-1.2, -0.8]],
    ),
}


@pytest.mark.parametrize("rule, batch, extra, expected", BY_HAND.values(), ids=BY_HAND.keys())
def test_by_hand(rule, batch, extra, expected):
    """The published formulas on numbers simple enough to work out, to the 1e-6 beside the standard deviation."""
    advantage = rule(core.TurnBatch(**pack(batch), **extra)).advantage
    torch.testing.assert_close(advantage, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=2e-5)


@given(batch=batches(), seed=seeds)
def test_igpo_and_turn_groups_meet(batch, seed):
    """With two pools and no discount IGPO is A²TGPO without turn groups and √n, on process turns and the last one."""
    turns = core.TurnBatch(**pack(lost(batch, seed)))
    igpo = core.IgpoCredit("separate")(turns)
    ours = core.TurnGroupCredit(pool="prompt", rescale=False, beta=0.0)(turns)
    same = turns.is_process | (torch.arange(turns.gain.shape[1]) == turns.n_turns[:, None] - 1)
    torch.testing.assert_close(torch.where(same, igpo.advantage, 0), torch.where(same, ours.advantage, 0))


def test_states_and_trees_of_different_prompts():
    """Prompts may use the same numbers for their states and trees: they are never compared."""
    batch = [Rollout(0, (None,), 1.0), Rollout(1, (None,), 0.0)]
    state, tree = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    turns = core.TurnBatch(**pack(batch), state=state, tree=tree)
    assert (core.GigpoCredit()(turns).advantage == 0).all()
    assert (core.TreeCredit()(turns).advantage == 0).all()


def test_overlong_penalty():
    """DAPO's numbers: nothing up to 16,384 tokens, half at 18,432, and −1 from 20,480 on."""
    lengths = torch.tensor([10, 16_384, 18_432, 20_480, 30_000])
    assert core.overlong_penalty(lengths, max_length=20_480, buffer=4_096).tolist() == [0, 0, -0.5, -1, -1]
