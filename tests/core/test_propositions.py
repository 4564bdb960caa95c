"""Statements about A2TGPO's formulas that its analysis rests on, each proved on batches rather than quoted.

They are what follows from the equations: how far gains, credit and clip range can go, that √n keeps turns of every
depth on one scale, and that turn groups compare like with like.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo import core

from .batches import batches, pack, padded

betas = st.sampled_from([0.1, 0.3, 0.5, 0.9])


def factorial(n_turns: int, scales: list[float]) -> dict[str, torch.Tensor]:
    """Every pattern of a good or bad gain at each of `n_turns` turns, once: independent gains, a spread by depth."""
    signs = list(itertools.product((-1.0, 1.0), repeat=n_turns))
    gain = padded([[sign * scale for sign, scale in zip(row, scales, strict=True)] for row in signs], n_turns + 1)
    return {
        "gain": gain,
        "is_process": torch.arange(n_turns + 1).expand(len(signs), -1) < n_turns,
        "outcome": torch.zeros(len(signs), dtype=torch.float64),
        "group": torch.zeros(len(signs), dtype=torch.long),
        "n_turns": torch.full((len(signs),), n_turns + 1),
    }


@pytest.mark.parametrize("n_turns", [1, 2, 5, 8])
def test_root_n_keeps_every_turn_on_one_scale(n_turns):
    """With independent gains D of a turn with n terms has variance n, and D/√n has variance 1, whatever the depth and
    the spread of gains there: without √n an early turn would weigh more for having more turns after it."""
    arguments = factorial(n_turns, [0.5**t for t in range(n_turns)])
    spread = core.turn_credit(**arguments).advantage.var(dim=0, correction=0)[:n_turns]
    torch.testing.assert_close(spread, torch.ones_like(spread), rtol=0, atol=1e-3)
    summed = core.turn_credit(**arguments, rescale=False).advantage.var(dim=0, correction=0)[:n_turns]
    terms = torch.arange(n_turns, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(summed, terms, rtol=1e-3, atol=0)


@given(batch=batches())
def test_turn_groups_sum_to_nothing(batch):
    """Within a turn group normalised gains have mean 0 and a variance of at most 1: what one rollout is given at a
    depth is taken from the others at that depth, and no depth is favoured."""
    arguments = pack(batch)
    scores = core.normalize_turn_groups(arguments["gain"], arguments["is_process"], arguments["group"])
    for prompt in arguments["group"].unique():
        for turn in range(scores.shape[1]):
            held = scores[(arguments["group"] == prompt) & arguments["is_process"][:, turn], turn]
            if len(held):
                assert abs(held.sum().item()) < 1e-9 and held.square().mean().item() <= 1 + 1e-12


@given(batch=batches(), alpha=st.sampled_from([0.3, 1.0]))
def test_no_turn_is_given_more_than(batch, alpha):
    """A score among N is at most √(N−1) (Samuelson), so |Â| ≤ (α√n + 1)·√(N−1) with n gains left and N rollouts."""
    arguments = pack(batch)
    credit = core.turn_credit(**arguments, alpha=alpha)
    size = torch.bincount(arguments["group"], minlength=len(batch))[arguments["group"]]
    most = (size - 1).clamp(min=0).double().sqrt()[:, None]
    counted = arguments["is_process"] & arguments["counted"]
    left = counted.long().flip(1).cumsum(1).flip(1).double()
    assert (credit.normalized_gain.abs() <= most + 1e-9).all()
    assert (credit.advantage.abs() <= (alpha * left.sqrt() + 1) * most + 1e-9).all()


@given(batch=batches(), scale=st.sampled_from([0.5, 4.0, 64.0]), shift=st.integers(-5, 5))
def test_a_depth_may_have_its_own_unit(batch, scale, shift):
    """Gains of one depth multiplied and shifted alike leave the credit as it is, up to the 1e-6 under the spread; with
    one pool per prompt, as IGPO's, the other depths' credit would move with it."""

    def changed(rollout):
        gains = tuple(g * scale + shift if t == 0 and g is not None else g for t, g in enumerate(rollout.gains))
        return rollout.but(gains=gains)

    before, after = (core.turn_credit(**pack(b)) for b in (batch, [changed(r) for r in batch]))
    # Dyadic gains: a spread that is not 0 is at least 1/64·√(1/9), against which 1e-6 is 2e-4.
    torch.testing.assert_close(after.advantage, before.advantage, rtol=0, atol=2e-2)


def test_one_pool_mixes_depths():
    """Where the first search always finds more than the second, a pool per prompt blames every second search; turn
    groups only say which second search was the better one."""
    gain = torch.tensor([[0.6, 0.2, 0.0], [0.6, 0.0, 0.0]], dtype=torch.float64)
    process, group = torch.tensor([[True, True, False]] * 2), torch.zeros(2, dtype=torch.long)
    pooled = core.normalize_turn_groups(gain, process, group, pool="prompt")
    by_turn = core.normalize_turn_groups(gain, process, group)
    assert (pooled[:, 1] < 0).all() and by_turn[0, 1] > 0.99 > -0.99 > by_turn[1, 1]


@given(score=st.floats(-40, 40), other=st.floats(-40, 40), beta=betas)
def test_clip_scale(score, other, beta):
    """c lies in [1 − β, 1 + β], is 1 for an average gain, rises with the gain, and gives one turn what it takes from
    its mirror image: c(g) + c(−g) = 2. So no clip range closes, and none is wider than 1 + β times the plain one."""
    scores = torch.tensor([[score, other, -score, 0.0]], dtype=torch.float64)
    c, c_other, mirrored, middle = core.clip_scale(scores, torch.ones(1, 4, dtype=torch.bool), beta=beta)[0].tolist()
    assert 1 - beta <= c <= 1 + beta and middle == 1.0
    assert c + mirrored == pytest.approx(2, abs=1e-12)
    assert (score - other) * (c - c_other) >= 0
    assert abs(c - c_other) <= beta / 2 * abs(score - other) + 1e-12


@given(score=st.floats(-4, 4), beta=betas, up=st.booleans())
def test_clip_range_of_a_turn(score, beta, up):
    """A turn moves until its ratio is 1 + c·ε_high with a positive advantage, 1 − c·ε_low with a negative one, and not
    beyond: just inside the bound there is a gradient, just outside there is none."""
    scale = core.clip_scale(torch.tensor([[score]], dtype=torch.float64), torch.tensor([[True]]), beta=beta)
    bound = 1 + scale.item() * 4e-3 if up else 1 - scale.item() * 3e-3
    for factor, moves in ((0.999, True), (1.001, False)):
        log_ratio = math.log(bound) * factor
        logp = torch.full((1, 3), log_ratio, dtype=torch.float64, requires_grad=True)
        advantage = torch.tensor([[1.0 if up else -1.0]], dtype=torch.float64)
        loss = core.policy_loss(logp, torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.long), advantage, scale).loss
        (gradient,) = torch.autograd.grad(loss, logp)
        assert bool((gradient != 0).all()) == moves


@pytest.mark.parametrize("length", [1, 4, 16])
def test_a_turn_ratio_is_calmer_than_its_tokens(length):
    """Independent log-ratios of variance v have a mean of variance v/length: over every pattern of ±δ on a turn of
    `length` tokens (by its number of pluses) the log of the turn ratio has the variance δ²/length."""
    step = 0.01
    weights = torch.tensor([math.comb(length, k) for k in range(length + 1)], dtype=torch.float64)
    rows = [[step] * k + [-step] * (length - k) for k in range(length + 1)]
    ratio = core.turn_ratio(
        torch.tensor(rows, dtype=torch.float64),
        torch.zeros(length + 1, length, dtype=torch.float64),
        torch.zeros(length + 1, length, dtype=torch.long),
    )
    variance = (weights * ratio[:, 0].log().square()).sum() / weights.sum()
    assert variance.item() == pytest.approx(step**2 / length, rel=1e-9)
