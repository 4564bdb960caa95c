"""From gains and outcomes to turn credit: against the slow transcription, and what must not matter."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from a2tgpo import core

from . import slow
from .batches import batches, gains, pack, padded

POOLS, BASELINES = ("turn", "prompt"), ("survivors", "absorbing", "active")
groupings = st.fixed_dictionaries({"pool": st.sampled_from(POOLS), "baseline": st.sampled_from(BASELINES)})


def assert_same(actual, expected, tolerance=1e-9):
    for name, value, target in zip(core.TurnCredit._fields, actual, expected, strict=True):
        torch.testing.assert_close(value, target, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")


@given(
    batch=batches(),
    grouping=groupings,
    gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    alpha=st.sampled_from([0.3, 1.0]),
    beta=st.sampled_from([0.0, 0.3, 1.0]),
    rescale=st.booleans(),
    floor=st.sampled_from([1e-6, 0.05]),
    dropped=st.booleans(),
)
def test_slow_transcription(batch, grouping, gamma, alpha, beta, rescale, floor, dropped):
    """Every option agrees with the loops of slow.py, with uncounted turns and rollouts left out."""
    if dropped:
        batch = [batch[0].but(valid=False), *batch[1:]]
    arguments = pack(batch)
    width = arguments["gain"].shape[1]
    options = {"gamma": gamma, "alpha": alpha, "rescale": rescale}
    credit = core.turn_credit(**arguments, **grouping, **options, beta=beta, std_floor=floor)
    expected = core.TurnCredit(
        padded(slow.advantages(batch, **options, **grouping, eps=floor), width),
        padded(slow.clip_scales(batch, beta, **grouping, eps=floor), width, fill=1.0),
        padded(slow.normalized_gains(batch, **grouping, eps=floor), width),
    )
    assert_same(credit, expected)


@given(batch=batches(), grouping=groupings, seed=st.integers(0, 999))
def test_order_of_rollouts(batch, grouping, seed):
    """Permuting the rollouts permutes the credit: no rollout is treated by its place."""
    order = random.Random(seed).sample(range(len(batch)), len(batch))
    shuffled = core.turn_credit(**pack([batch[i] for i in order]), **grouping)
    straight = core.turn_credit(**pack(batch), **grouping)
    assert_same(shuffled, [value[order] for value in straight], 1e-12)


@given(batch=batches(), grouping=groupings, seed=st.integers(0, 999))
def test_names_of_prompts(batch, grouping, seed):
    """A prompt's number is only a name: relabelling prompts changes nothing."""
    labels = random.Random(seed).sample(range(len(batch)), len(batch))
    relabelled = [r.but(prompt=labels[r.prompt]) for r in batch]
    assert_same(core.turn_credit(**pack(relabelled), **grouping), core.turn_credit(**pack(batch), **grouping))


@given(batch=batches(), grouping=groupings, extra=st.integers(1, 4))
def test_padding(batch, grouping, extra):
    """More turn columns change nothing, and themselves hold advantage 0, scale 1 and gain 0."""
    wide = core.turn_credit(**pack(batch, extra), **grouping)
    narrow = core.turn_credit(**pack(batch), **grouping)
    assert_same([value[:, :-extra] for value in wide], narrow, 0)
    for value, padding in zip(wide, (0.0, 1.0, 0.0), strict=True):
        assert (value[:, -extra:] == padding).all()


@given(batch=batches(), shift=st.integers(-1000, 1000), data=st.data())
def test_shifting_a_turn_group(batch, shift, data):
    """A constant added to all gains of one turn group changes nothing, bit by bit in float32."""
    chosen = data.draw(st.sampled_from(batch))
    turn = data.draw(st.integers(0, len(chosen.gains) - 1))

    def shifted(rollout):
        if rollout.prompt != chosen.prompt or turn >= len(rollout.gains) or rollout.gains[turn] is None:
            return rollout
        moved = list(rollout.gains)
        moved[turn] += shift
        return rollout.but(gains=tuple(moved))

    before = core.turn_credit(**pack(batch, dtype=torch.float32))
    after = core.turn_credit(**pack([shifted(r) for r in batch], dtype=torch.float32))
    assert_same(after, before, 0)


@given(batch=batches(), grouping=groupings)
def test_zero_gains(batch, grouping):
    """Without any gain every turn has the plain outcome advantage and the plain clip range."""
    batch = [r.but(gains=tuple(None if g is None else 0.0 for g in r.gains)) for r in batch]
    arguments = pack(batch)
    credit = core.turn_credit(**arguments, **grouping)
    outcome = core.normalize_outcome(arguments["outcome"], arguments["group"])
    is_turn = torch.arange(credit.advantage.shape[1]) < arguments["n_turns"][:, None]
    assert torch.equal(credit.advantage, torch.where(is_turn, outcome[:, None], 0))
    assert (credit.clip_scale == 1).all()


@given(value=st.floats(-50, 50, width=32), size=st.integers(1, 9))
def test_constant_group(value, size):
    """A group of one, and a group of equal gains, give exactly 0: rounding is never turned into credit."""
    gain, group = torch.full((size, 1), value), torch.zeros(size, dtype=torch.long)
    assert (core.normalize_turn_groups(gain, torch.ones(size, 1, dtype=torch.bool), group) == 0).all()
    assert (core.normalize_outcome(gain[:, 0], group) == 0).all()


@given(batch=batches(), grouping=groupings, gain=gains)
def test_rollouts_that_are_not_valid(batch, grouping, gain):
    """A rollout that is not valid is as good as absent: NaN in it reaches nobody, and it learns nothing."""
    nan = float("nan")
    lost = slow.Rollout(prompt=0, gains=(gain, nan, None), outcome=nan, valid=False)
    credit = core.turn_credit(**pack([*batch, lost], extra_turns=1), **grouping)
    alone = core.turn_credit(**pack(batch, extra_turns=1), **grouping)
    width = min(credit.advantage.shape[1], alone.advantage.shape[1])
    assert_same([value[:-1, :width] for value in credit], [value[:, :width] for value in alone], 1e-12)
    assert [value[-1].unique().tolist() for value in credit] == [[0.0], [1.0], [0.0]]


def test_only_process_turns_are_read():
    """By themselves, `accumulate` and `clip_scale` give 0 and 1 off process turns, whatever stands there."""
    normalized = torch.tensor([[1.0, float("nan"), 2.0, float("inf")]])
    is_process = torch.tensor([[True, False, True, False]])
    assert core.accumulate(normalized, is_process, gamma=0.5, rescale=False).tolist() == [[1.5, 0, 2, 0]]
    scale = core.clip_scale(normalized, is_process, beta=0.5)
    half = torch.tensor([0.5, 1.0]).tanh() / 2
    torch.testing.assert_close(scale, torch.tensor([[1 + half[0], 1, 1 + half[1], 1]]))


def test_released_options():
    """`counted` reproduces the release: turn 1 has no gain, and a gain of exactly 0 is no gain either."""
    gain = torch.tensor([[0.9, 0.0, 0.4, 0.0], [0.1, 0.3, 0.2, 0.0]], dtype=torch.float64)
    is_process = torch.tensor([[True, True, True, False]] * 2)
    counted = is_process & (gain != 0) & (torch.arange(4) > 0)
    credit = core.turn_credit(
        gain,
        is_process,
        torch.tensor([1.0, 1.0], dtype=torch.float64),
        torch.tensor([0, 0]),
        n_turns=torch.tensor([4, 4]),
        counted=counted,
    )
    one = 0.1 / (0.1 + 1e-6)  # the only group with two gains is turn 3: +1 and −1 standard deviations
    root = 2**0.5
    expected = [[one, one, one, 0.0], [-one / root, -one / root, -one, 0.0]]
    torch.testing.assert_close(credit.advantage, torch.tensor(expected, dtype=torch.float64))
    assert (credit.clip_scale[:, :2] == 1).all()


def test_absorbing_keeps_a_baseline():
    """A rollout that searched on alone is compared with those that had finished, and they with it."""
    gain = torch.tensor([[0.2, 0.6, 0.0], [0.2, 0.0, 0.0], [0.2, 0.0, 0.0]])
    is_process = torch.tensor([[True, True, False], [True, False, False], [True, False, False]])
    group = torch.zeros(3, dtype=torch.long)
    survivors = core.normalize_turn_groups(gain, is_process, group)
    absorbing = core.normalize_turn_groups(gain, is_process, group, baseline="absorbing")
    assert (survivors == 0).all()
    root = 2**0.5
    torch.testing.assert_close(
        absorbing, torch.tensor([[0, root, 0], [0, -1 / root, 0], [0, -1 / root, 0]]), rtol=0, atol=1e-5
    )
    credit = core.turn_credit(
        gain, is_process, torch.ones(3), group, n_turns=torch.tensor([3, 2, 2]), baseline="absorbing"
    )
    expected = torch.tensor([[1, root, 0], [-0.5, -1 / root, 0], [-0.5, -1 / root, 0]])
    torch.testing.assert_close(credit.advantage, expected, rtol=0, atol=1e-5)
    assert (credit.normalized_gain[:, 1] == absorbing[:, 1] * is_process[:, 1]).all()


def test_active_compares_those_who_were_still_going():
    """Who answered at once is compared at the first turn and not at the second; who was cut off behind a search never
    stopped, and takes no part where it has no turn."""
    gain = torch.tensor([[0.2, 0.6, 0.0], [0.2, 0.0, 0.0], [0.0, 0.0, 0.0], [0.2, 0.0, 0.0]])
    is_process = torch.tensor([[True, True, False], [True, False, False], [False] * 3, [True, False, False]])
    credit = core.turn_credit(
        gain,
        is_process,
        torch.ones(4),
        torch.zeros(4, dtype=torch.long),
        n_turns=torch.tensor([3, 2, 1, 1]),
        baseline="active",
        rescale=False,
    )
    third, root = 1 / 3**0.5, 3**0.5  # {.2, .2, 0, .2} is (1, 1, −3, 1)/√3; {.6, 0} is ±1
    expected = torch.tensor([[third + 1, 1, 0], [third - 1, -1, 0], [-root, 0, 0], [third, 0, 0]])
    torch.testing.assert_close(credit.advantage, expected, rtol=0, atol=5e-5)
    assert credit.clip_scale[2, 0] == 1 and credit.normalized_gain[2, 0] == 0


def test_floor_on_small_spreads():
    """With a floor of 0.05, gains that differ by a hundredth earn a sixth of a standard deviation, not one."""
    gain, process = torch.tensor([[0.31], [0.29]], dtype=torch.float64), torch.tensor([[True], [True]])
    rest = {"outcome": torch.zeros(2).double(), "group": torch.tensor([0, 0]), "n_turns": torch.tensor([1, 1])}
    one = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    paper = core.turn_credit(gain, process, **rest).advantage
    torch.testing.assert_close(paper, one, rtol=0, atol=2e-4)
    floored = core.turn_credit(gain, process, **rest, std_floor=0.05).advantage
    torch.testing.assert_close(floored, one / 6)


def test_information_gain():
    """A gain is the rise over the boundary before, on process turns only, and carries no gradient."""
    nan = float("nan")
    likelihood = torch.tensor([[0.1, 0.4, 0.3, nan], [0.2, nan, nan, nan]], requires_grad=True)
    is_process = torch.tensor([[True, True, False], [False, False, False]])
    gain = core.information_gain(likelihood, is_process)
    torch.testing.assert_close(gain, torch.tensor([[0.3, -0.1, 0.0], [0.0, 0.0, 0.0]]))
    assert not gain.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Half-precision gains and outcomes are computed with, and returned, in float32."""
    arguments = pack([slow.Rollout(0, (0.5, None), 1.0), slow.Rollout(0, (0.25, None), 0.0)], dtype=dtype)
    credit = core.turn_credit(**arguments)
    exact = core.turn_credit(**{k: v.float() if v.dtype == dtype else v for k, v in arguments.items()})
    assert all(value.dtype == torch.float32 for value in credit)
    assert_same(credit, exact, 0)
