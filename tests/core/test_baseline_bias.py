"""Which baseline gives the policy gradient, by exact enumeration (docs/baselines.md)."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "docs" / "figures" / "baseline_bias.py"
specification = importlib.util.spec_from_file_location("baseline_bias", SCRIPT)
bias = importlib.util.module_from_spec(specification)
sys.modules[specification.name] = bias  # dataclasses look their module up
specification.loader.exec_module(bias)

UNEVEN = bias.Problem(search=(0.7, 0.2, 0.9), first=(0.4, -0.2), again=(-0.1, 0.3))
problems = pytest.mark.parametrize("problem", [bias.HELPS, bias.HURTS, UNEVEN], ids=["helps", "hurts", "uneven"])


@problems
@pytest.mark.parametrize("n_rollouts", [2, 3, 4])
def test_absorbing_is_unbiased(problem, n_rollouts):
    """Mean-centred, its expectation is the policy gradient times 1 − 1/n: the mean holds the rollout itself."""
    expected = bias.true_gradient(problem) * (1 - 1 / n_rollouts)
    torch.testing.assert_close(bias.expected_gradient(problem, n_rollouts, "absorbing"), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_rollouts", [2, 3, 4])
def test_survivors_are_biased(n_rollouts):
    """Compared with survivors alone, a search that helps is pushed down and one that hurts is pushed up.

    After A another search is worth less than after B, and only those two are compared: which of them is better is
    all that is learned, not whether to search at all, and the first search has no gradient either way.
    """
    for problem, sign in ((bias.HELPS, 1), (bias.HURTS, -1)):
        assert (sign * bias.true_gradient(problem) > 0).all()
        first, after_a, after_b = (sign * bias.expected_gradient(problem, n_rollouts, "survivors")).tolist()
        assert abs(first) < 1e-9
        assert after_a < -1e-3 and after_a == pytest.approx(-after_b)


@problems
@pytest.mark.parametrize("n_rollouts", [2, 3, 4])
def test_active_sees_the_next_gain_alone(problem, n_rollouts):
    """Compared with everyone who was still going, its expectation is the gradient of the gain of that very search,
    times 1 − E[1/m] where m rollouts were still going; what a search opens up later is not in it."""
    reached = problem.search[0]
    # One of m rollouts reached the second decision, the others each with the chance `reached`.
    alone = (1 - (1 - reached) ** n_rollouts) / (n_rollouts * reached)
    kept = torch.tensor([1 - 1 / n_rollouts, 1 - alone, 1 - alone], dtype=torch.float64)
    expected = bias.immediate_gradient(problem) * kept
    torch.testing.assert_close(bias.expected_gradient(problem, n_rollouts, "active"), expected, rtol=0, atol=1e-8)


def test_true_gradient():
    """The gradient everything is compared with, by hand: reach · p(1 − p) · what the search and those after it gain."""
    first = 0.5 * 0.5 * (0.5 * (0.3 + 0.5 * 0.1) + 0.5 * (0.1 + 0.5 * 0.5))
    expected = torch.tensor([first, 0.25 * 0.25 * 0.1, 0.25 * 0.25 * 0.5], dtype=torch.float64)
    torch.testing.assert_close(bias.true_gradient(bias.HELPS), expected)


@problems
def test_division_is_a_bias_of_its_own(problem):
    """Divided by the spread and by √n, as in training, absorbing is no policy gradient, but keeps its signs here."""
    trained = bias.expected_gradient(problem, 4, "absorbing", std_floor=1e-6)
    truth = bias.true_gradient(problem)
    assert (trained.sign() == truth.sign()).all()
    assert (trained / truth).max() > 1.5 * (trained / truth).min()
