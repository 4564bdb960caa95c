"""From log-probabilities to the loss: against the slow transcription, and what must not matter."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from a2tgpo import core
from a2tgpo.core.turns import turn_sum

from . import slow
from .batches import batches, log_probabilities, model_masks, surrogate_inputs

LEVELS, AGGREGATES = ("turn", "token", "sequence"), ("rollout", "token")
levels, aggregates, seeds = st.sampled_from(LEVELS), st.sampled_from(AGGREGATES), st.integers(0, 999)


def loss_and_gradient(inputs, **options):
    logp = inputs["logp"].clone().requires_grad_()
    result = core.policy_loss(**{**inputs, "logp": logp}, **options)
    (grad,) = torch.autograd.grad(result.loss, logp)
    return result, grad


def test_turn_ids():
    """A turn is a maximal run of model tokens, wherever the row starts and ends."""
    mask = torch.tensor([[1, 1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 1, 0], [0] * 7], dtype=torch.bool)
    expected = [[0, 0, -1, 1, -1, -1, 2], [-1, 0, -1, -1, 1, 1, -1], [-1] * 7]
    assert core.turn_ids(mask).tolist() == expected


@given(
    batch=batches(size=4),
    level=levels,
    aggregate=aggregates,
    upper=st.sampled_from(["clip", "keep_gradient"]),
    shared=st.booleans(),
    weighted=st.booleans(),
    dual_clip=st.sampled_from([None, 1.005]),
    seed=seeds,
)
def test_slow_transcription(batch, level, aggregate, upper, shared, weighted, dual_clip, seed):
    """Loss and gradient agree with the loops of slow.py at every level and aggregation, with turns left out or not,
    with weights of tokens or without, with dual clip or without."""
    inputs = surrogate_inputs(batch, seed)
    options = {"aggregate": aggregate, "upper": upper, "dual_clip": dual_clip}
    generator = torch.Generator().manual_seed(seed)
    more = {"owned": torch.rand(inputs["advantage"].shape, generator=generator) < 0.7} if shared else {}
    if weighted:
        weight = 3 * torch.rand(inputs["logp"].shape, generator=generator, dtype=torch.float64)
        more["token_weight"] = weight.masked_fill(weight < 1, 0.0)
    lists = [value.tolist() for value in inputs.values()]
    same = {name: value.tolist() for name, value in more.items()}
    value, gradient = slow.loss_and_gradient(*lists, level=level, **options, **same)
    result, grad = loss_and_gradient(inputs, ratio=level, **options, **more)
    assert result.loss.item() == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(grad, torch.tensor(gradient, dtype=torch.float64), rtol=0, atol=1e-12)


@given(batch=batches(size=4), level=levels, aggregate=aggregates, seed=seeds, extra=st.integers(1, 5))
def test_padding(batch, level, aggregate, seed, extra):
    """More token and turn columns change neither the loss, nor the gradient, nor a diagnostic."""
    options = {"ratio": level, "aggregate": aggregate}
    narrow = surrogate_inputs(batch, seed)
    wide = surrogate_inputs(batch, extra_tokens=extra, extra_turns=extra)
    for name in ("logp", "old_logp"):
        wide[name][:, :-extra] = narrow[name]
    result, grad = loss_and_gradient(narrow, **options)
    padded_result, padded_grad = loss_and_gradient(wide, **options)
    torch.testing.assert_close(padded_grad[:, :-extra], grad)
    assert (padded_grad[:, -extra:] == 0).all()
    for name, value in result._asdict().items():
        unpadded = getattr(padded_result, name)
        unpadded = unpadded[:, :-extra] if name == "clipped_turns" else unpadded
        torch.testing.assert_close(unpadded, value)


@given(batch=batches(size=4), level=levels, seed=seeds, garbage=st.sampled_from(["nan", "inf", "-inf"]))
def test_garbage_off_model_tokens(batch, level, seed, garbage):
    """NaN and infinities on observations and padding reach neither the loss nor any gradient."""
    clean = surrogate_inputs(batch, seed, extra_tokens=1)
    clean["token_weight"] = torch.ones_like(clean["logp"])
    off = clean["turn_ids"] < 0
    names = ("logp", "old_logp", "token_weight")
    dirty = clean | {name: clean[name].masked_fill(off, float(garbage)) for name in names}
    result, grad = loss_and_gradient(clean, ratio=level)
    dirty_result, dirty_grad = loss_and_gradient(dirty, ratio=level)
    assert all(map(torch.equal, dirty_result, result))
    assert torch.equal(dirty_grad, grad)
    assert (grad[off] == 0).all()


@given(batch=batches(size=4), level=levels, seed=seeds, garbage=st.sampled_from(["nan", "inf"]))
def test_garbage_on_turns_without_tokens(batch, level, seed, garbage):
    """Whatever credit stands in the columns of turns that a rollout does not have reaches nothing either."""
    clean = surrogate_inputs(batch, seed)
    empty = turn_sum(torch.ones_like(clean["logp"]), clean["turn_ids"], clean["advantage"].shape[1]) == 0
    dirty = clean | {name: clean[name].masked_fill(empty, float(garbage)) for name in ("advantage", "clip_scale")}
    result, grad = loss_and_gradient(clean, ratio=level)
    dirty_result, dirty_grad = loss_and_gradient(dirty, ratio=level)
    assert all(map(torch.equal, dirty_result, result))
    assert torch.equal(dirty_grad, grad)


@given(batch=batches(size=4), seed=seeds)
def test_turn_ratio(batch, seed):
    """The ratio of a turn is the geometric mean over its tokens, on each of them, and 1 elsewhere."""
    mask = model_masks(batch)
    turns = core.turn_ids(mask)
    logp, old_logp = log_probabilities(mask, seed, spread=1.0)
    ratio = core.turn_ratio(logp, old_logp, turns)
    rows = zip(logp.tolist(), old_logp.tolist(), turns.tolist(), ratio.tolist(), strict=True)
    for new, old, ids, actual in rows:
        expected = [slow.ratio(new, old, ids, j, "turn") if ids[j] >= 0 else 1.0 for j in range(len(ids))]
        assert actual == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20)
@given(batch=batches(size=3), seed=seeds)
def test_gradient_of_turn_ratio(batch, seed):
    """Autograd agrees with finite differences: each token of a turn moves the ratio of the whole turn."""
    mask = model_masks(batch)
    turns = core.turn_ids(mask)
    logp, old_logp = log_probabilities(mask, seed, spread=0.3)
    assert torch.autograd.gradcheck(lambda x: core.turn_ratio(x, old_logp, turns), logp.requires_grad_(), atol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_gradient_of_loss(level, aggregate):
    """Autograd agrees with central differences of the slow loss, on clipped and unclipped tokens alike."""
    batch = [
        slow.Rollout(0, (0.5, 0.25, None), 1.0, lengths=(2, 3, 1), gaps=(1, 1, 1)),
        slow.Rollout(0, (-0.25, None), 0.0, lengths=(1, 2), gaps=(2, 1)),
    ]
    inputs = surrogate_inputs(batch, seed=0)
    result, grad = loss_and_gradient(inputs, ratio=level, aggregate=aggregate)
    assert 0 < result.clipped_low + result.clipped_high < 1

    def slow_loss(i, j, step):
        logp = inputs["logp"].clone()
        logp[i, j] += step
        lists = [value.tolist() for value in (inputs | {"logp": logp}).values()]
        return slow.loss_and_gradient(*lists, level=level, aggregate=aggregate)[0]

    step = 1e-6
    for i, j in torch.cartesian_prod(*map(torch.arange, grad.shape)).tolist():
        difference = (slow_loss(i, j, step) - slow_loss(i, j, -step)) / (2 * step)
        assert grad[i, j].item() == pytest.approx(difference, abs=1e-6)


@given(batch=batches(size=4).filter(lambda batch: len(batch) % 2 == 0), seed=seeds)
def test_micro_batches(batch, seed):
    """The mean over equal micro-batches is the loss of the batch, with an empty rollout among them."""
    inputs = surrogate_inputs(batch, seed)
    inputs["turn_ids"][0] = -1
    halves = [{name: value.chunk(2)[half] for name, value in inputs.items()} for half in range(2)]
    whole = core.policy_loss(**inputs).loss
    torch.testing.assert_close(sum(core.policy_loss(**half).loss for half in halves) / 2, whole)


@given(batch=batches(size=4).filter(lambda batch: len(batch) % 2 == 0), level=levels, seed=seeds)
def test_micro_batches_of_tokens(batch, level, seed):
    """Divided by the batch's token count, the losses of micro-batches sum to the batch's, however unlike in length."""
    inputs = surrogate_inputs(batch, seed)
    n_tokens = (inputs["turn_ids"] >= 0).sum()
    halves = [{name: value.chunk(2)[half] for name, value in inputs.items()} for half in range(2)]
    options = {"ratio": level, "aggregate": "token"}
    parts = [core.policy_loss(**half, **options, n_tokens=n_tokens).loss for half in halves]
    torch.testing.assert_close(sum(parts), core.policy_loss(**inputs, **options).loss)


def test_gradient_above_the_upper_bound():
    """Above the bound the value is 1.2·Â both ways; clipping has no gradient there, AEPO's is 1.2·Â, not s·Â."""
    inputs = {
        "logp": torch.tensor([[0.5, 0.5]]),
        "old_logp": torch.zeros(1, 2),
        "turn_ids": torch.tensor([[0, 1]]),
        "advantage": torch.tensor([[2.0, -2.0]]),
        "clip_scale": torch.ones(1, 2),
    }
    options = {"ratio": "token", "eps_low": 0.2, "eps_high": 0.2}
    clipped, none = loss_and_gradient(inputs, **options)
    kept, some = loss_and_gradient(inputs, **options, upper="keep_gradient")
    up = torch.tensor(0.5).exp().item()
    assert kept.loss.item() == clipped.loss.item() == pytest.approx(-(2 * 1.2 - 2 * up) / 2)
    torch.testing.assert_close(none, torch.tensor([[0.0, up]]))
    torch.testing.assert_close(some, torch.tensor([[-1.2, up]]))
    assert kept.clipped_high == clipped.clipped_high == 0.5


@given(batch=batches(size=4), level=levels, aggregate=aggregates, seed=seeds)
def test_penalty(batch, level, aggregate, seed):
    """A penalty is averaged as the tokens of the objective are: per rollout, or over all tokens."""
    inputs = surrogate_inputs(batch, seed)
    turns = inputs["turn_ids"]
    penalty = inputs["old_logp"].square().masked_fill(turns < 0, float("nan"))
    options = {"ratio": level, "aggregate": aggregate}
    added = core.policy_loss(**inputs, **options, penalty=penalty).loss - core.policy_loss(**inputs, **options).loss
    mean = penalty[turns >= 0].mean() if aggregate == "token" else core.rollout_mean(penalty, turns)
    torch.testing.assert_close(added, mean)


def test_dual_clip_by_hand():
    """With Â < 0 a ratio of e² counts as 3 and moves nothing; one of e counts as it is."""
    inputs = {
        "logp": torch.tensor([[2.0, 1.0]]),
        "old_logp": torch.zeros(1, 2),
        "turn_ids": torch.tensor([[0, 1]]),
        "advantage": torch.tensor([[-1.0, -1.0]]),
        "clip_scale": torch.ones(1, 2),
    }
    result, grad = loss_and_gradient(inputs, ratio="token", eps_low=0.2, eps_high=0.2, dual_clip=3.0)
    e = torch.tensor(1.0).exp().item()
    assert result.loss.item() == pytest.approx((3 + e) / 2)
    torch.testing.assert_close(grad, torch.tensor([[0.0, e / 2]]))
    assert result.clipped_high == 0.5 and result.clipped_low == 0 and result.clipped_turns.tolist() == [[True, False]]


def test_turns_of_tokens():
    """Clipped turns are turns also where a batch happens to have as many tokens as turn columns."""
    result = core.policy_loss(
        torch.tensor([[0.5, 0.5, 0.0]]),
        torch.zeros(1, 3),
        torch.tensor([[0, 0, 1]]),
        advantage=torch.tensor([[1.0, 1.0, 0.0]]),
        clip_scale=torch.ones(1, 3),
        ratio="token",
    )
    assert result.clipped_turns.tolist() == [[True, False, False]]


def test_on_policy():
    """At the old policy nothing is clipped: the loss is −mean Â, its gradient −Â/|tokens| per rollout."""
    turns = torch.tensor([[0, 0, -1, 1], [0, -1, -1, -1]])
    logp = torch.tensor([[-1.0, -2.0, -9.0, -0.5], [-3.0, -9.0, -9.0, -9.0]])
    inputs = {
        "logp": logp,
        "old_logp": logp,
        "turn_ids": turns,
        "advantage": torch.tensor([[1.0, -2.0], [0.5, 0.0]]),
        "clip_scale": torch.ones(2, 2),
    }
    result, grad = loss_and_gradient(inputs)
    assert result.loss.item() == pytest.approx(-((1 + 1 - 2) / 3 + 0.5) / 2)
    assert result.clipped_low == result.clipped_high == result.approx_kl == 0
    assert result.ratio_mean == 1
    torch.testing.assert_close(grad, -torch.tensor([[1 / 3, 1 / 3, 0, -2 / 3], [0.5, 0, 0, 0]]) / 2)


def test_clip_scale_and_diagnostics():
    """A wider scale lets the same ratio through; shares count tokens, and only clipped turns are marked."""
    change = torch.tensor([0.005, 0.005, 0.005, 0.005, -0.005, 0.005], dtype=torch.float64)
    turns = torch.tensor([[0, 0, 1, -1, 2, 3]])
    result = core.policy_loss(
        change[None],
        torch.zeros(1, 6).double(),
        turns,
        advantage=torch.tensor([[1.0, 1.0, -1.0, -1.0]]),
        clip_scale=torch.tensor([[1.0, 1.3, 1.0, 1.0]]),
    )
    assert result.clipped_turns.tolist() == [[True, False, True, False]]
    assert result.clipped_high.item() == pytest.approx(2 / 5)
    assert result.clipped_low.item() == pytest.approx(1 / 5)
    up, down = change[0].exp().item(), change[4].exp().item()
    assert result.ratio_mean.item() == pytest.approx((4 * up + down) / 5)
    assert result.approx_kl.item() == pytest.approx((4 * (up - 1.005) + (down - 0.995)) / 5)
    assert result.loss.item() == pytest.approx(-(2 * 1.004 + up - 0.997 - up) / 5)


def test_only_the_policy_gets_gradient():
    """Old log-probabilities, advantages and clip scales are constants even when they carry a graph."""
    inputs = surrogate_inputs([slow.Rollout(0, (0.5, None), 1.0, (2, 2), (1, 1))])
    leaves = {name: v.clone().requires_grad_() for name, v in inputs.items() if name != "turn_ids"}
    core.policy_loss(**leaves, turn_ids=inputs["turn_ids"]).loss.backward()
    assert {name for name, leaf in leaves.items() if leaf.grad is not None} == {"logp"}


def test_no_model_tokens():
    """A batch without model tokens has loss 0, zero diagnostics and a zero gradient, not NaN."""
    ids = torch.full((2, 3), -1)
    inputs = {
        "logp": torch.zeros(2, 3),
        "old_logp": torch.zeros(2, 3),
        "turn_ids": ids,
        "advantage": torch.ones(2, 1),
        "clip_scale": torch.ones(2, 1),
    }
    for aggregate in AGGREGATES:
        result, grad = loss_and_gradient(inputs, aggregate=aggregate)
        assert all((value == 0).all() for value in (*result, grad))


def test_half_precision():
    """bfloat16 log-probabilities are subtracted in float32, and their gradient comes back in bfloat16."""
    inputs = surrogate_inputs([slow.Rollout(0, (0.5, None), 1.0, (2, 2), (1, 1))])
    half = {name: v if name == "turn_ids" else v.bfloat16() for name, v in inputs.items()}
    full = {name: v if name == "turn_ids" else v.float() for name, v in half.items()}
    result, grad = loss_and_gradient(half)
    assert result.loss.dtype == torch.float32 and grad.dtype == torch.bfloat16
    assert torch.equal(result.loss, core.policy_loss(**full).loss)
    ratio = core.turn_ratio(half["logp"], half["old_logp"], half["turn_ids"])
    assert ratio.dtype == torch.float32


def test_kl_penalty():
    """The k3 estimate is exp(r) − r − 1, never negative, and 0 at the reference and off model tokens."""
    ids = torch.tensor([[0, 0, -1, 1]])
    logp = torch.tensor([[-1.0, -2.0, float("nan"), -0.5]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-1.5, -1.0, -1.0, -0.5]], dtype=torch.float64)
    penalty = core.kl_penalty(logp, reference, ids)
    r = torch.tensor([[-0.5, 1.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(penalty, r.exp() - r - 1)
    (grad,) = torch.autograd.grad(penalty.sum(), logp)
    torch.testing.assert_close(grad, 1 - r.exp())


def test_kl_penalty_with_old_log_probabilities_has_the_reverse_kl_gradient():
    """Weighted by the token ratio, the penalty's value and gradient are those of ratio · k3, by hand."""
    ids = torch.tensor([[0, -1, 1]])
    logp = torch.tensor([[-1.0, float("nan"), -0.5]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.25, 0.0, -0.5]], dtype=torch.float64)
    reference = torch.tensor([[-1.5, 0.0, -0.25]], dtype=torch.float64)
    penalty = core.kl_penalty(logp, reference, ids, old)
    r = torch.tensor([[-0.5, 0.0, 0.25]], dtype=torch.float64)
    ratio = torch.tensor([[0.25, 0.0, 0.0]], dtype=torch.float64).exp()
    torch.testing.assert_close(penalty, ratio * (r.exp() - r - 1))
    (grad,) = torch.autograd.grad(penalty.sum(), logp)
    expected = ratio * (r.exp() - r - 1) + ratio * (1 - r.exp())
    torch.testing.assert_close(grad, torch.where(ids >= 0, expected, 0))


def test_rollout_mean_weighs_rollouts_alike():
    """Each rollout counts once whatever its length; one without model tokens counts as 0."""
    ids = torch.tensor([[0, 0, -1], [0, -1, -1], [-1, -1, -1]])
    values = torch.tensor([[1.0, 3.0, float("nan")], [4.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
    assert core.rollout_mean(values, ids).item() == pytest.approx((2 + 4 + 0) / 3)
