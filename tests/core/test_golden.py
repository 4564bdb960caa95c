"""The numbers of two oracles: the paper's equations in float64, and the authors' published implementation."""

import json
from pathlib import Path

import pytest
import torch

from a2tgpo import core

from . import slow
from .batches import pack, padded

CASES = json.loads((Path(__file__).parent / "golden" / "a2tgpo_golden.json").read_text())["cases"]
LOSS_CASES = [case for case in CASES if "loss" in case]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
each_loss_case = pytest.mark.parametrize("case", LOSS_CASES, ids=lambda case: case["name"])


def batch_of(case) -> list[slow.Rollout]:
    return [slow.Rollout(prompt=r["prompt"], gains=(*r["gain"], None), outcome=r["outcome"]) for r in case["rollouts"]]


def credit_of(case, oracle, dtype=torch.float64) -> core.TurnCredit:
    settings = {name: case[oracle][name] for name in ("alpha", "beta")}
    return core.turn_credit(**pack(batch_of(case), dtype=dtype), gamma=case["gamma"], **settings)


def assert_rows(actual, rows, fill, tolerance):
    torch.testing.assert_close(actual.double(), padded(rows, actual.shape[1], fill), rtol=0, atol=tolerance)


@each_case
def test_paper(case):
    """Normalised gains, advantages and clip scales are the paper's to 1e-9, padding included."""
    credit, paper = credit_of(case, "paper"), case["paper"]
    assert_rows(credit.normalized_gain, paper["normalized_gain"], 0.0, 1e-9)
    assert_rows(credit.advantage, paper["advantage"], 0.0, 1e-9)
    assert_rows(credit.clip_scale, paper["clip_scale"], 1.0, 1e-9)


@each_case
def test_released(case):
    """In float32 and with the release's α, advantages and clip scales are the release's.

    The two oracles put their small constants in different places of the standard deviation, which shows
    where a group is nearly constant: there we may differ by what the oracles differ by.
    """
    credit, released = credit_of(case, "released", torch.float32), case["released"]
    tolerance = max(1e-5, 1.01 * case["max_gap_paper_released_at_alpha_0.3"])
    assert_rows(credit.advantage, released["advantage"], 0.0, tolerance)
    assert_rows(credit.clip_scale, released["clip_scale"], 1.0, tolerance)


@each_case
def test_transcription(case):
    """The slow transcription, which the property tests trust, agrees with the paper's oracle too."""
    batch, paper = batch_of(case), case["paper"]
    actual = slow.advantages(batch, case["gamma"], paper["alpha"])
    for row, expected in zip(actual, paper["advantage"], strict=True):
        assert row == pytest.approx(expected, abs=1e-9)


def loss_of(case, oracle, dtype):
    golden, credit = case["loss"], credit_of(case, oracle, dtype)
    logp = torch.tensor(golden["logp"], dtype=dtype, requires_grad=True)
    loss = core.policy_loss(
        logp,
        torch.tensor(golden["old_logp"], dtype=dtype),
        core.turn_ids(torch.tensor(golden["model_mask"], dtype=torch.bool)),
        credit.advantage,
        credit.clip_scale,
        eps_low=golden["eps_low"],
        eps_high=golden["eps_high"],
    ).loss
    (grad,) = torch.autograd.grad(loss, logp)
    return loss.item(), grad.double()


@each_loss_case
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_loss_and_gradient(case, dtype):
    """Loss and gradient are both oracles' (recorded in float32), on the advantages of the paper."""
    golden = case["loss"]
    loss, grad = loss_of(case, "paper", dtype)
    assert loss == pytest.approx(golden["loss"], abs=1e-7)
    assert loss == pytest.approx(golden["released_loss"], abs=1e-6)
    torch.testing.assert_close(grad, torch.tensor(golden["grad"], dtype=torch.float64), rtol=0, atol=1e-8)
