"""Draw docs/figures/baseline_bias.svg: which baseline gives the policy gradient, by exact enumeration.

    pip install 'a2tgpo[report]'
    python docs/figures/baseline_bias.py

A policy may search, sees observation A or B, may search once more, and answers. What it wants is the expected sum of
its gains. Every batch of rollouts that can happen is credited by `a2tgpo.core.turn_credit` and weighted by its
probability, so that the expected gradient is exact; nothing is sampled.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from a2tgpo import core

DECISIONS = ("first search", "again after A", "again after B")
# Dividing by std + 2³⁰ and multiplying by 2³⁰ leaves gain − mean, to 1e-9: the division has a bias of its own.
NO_DIVISION = 2.0**30


@dataclass(frozen=True)
class Problem:
    """Probabilities and gains; B is what the observation shows half of the time.

    Attributes:
        search: the probability of searching at each decision.
        first: the gain of the first search where it shows A, and where it shows B.
        again: the gain of the second search after A, and after B.
    """

    search: tuple[float, float, float] = (0.5, 0.5, 0.5)
    first: tuple[float, float] = (0.3, 0.1)
    again: tuple[float, float] = (0.1, 0.5)


HELPS = Problem()
HURTS = Problem(first=(-0.3, -0.1), again=(-0.1, -0.5))


@dataclass(frozen=True)
class Way:
    """One way a rollout can go: its gains, and its decisions as (which, searched)."""

    gains: tuple[float, ...]
    decisions: tuple[tuple[int, bool], ...]


def ways_of(problem: Problem) -> list[Way]:
    """Answer at once; or see A or B, then answer or search again."""
    result = [Way((), ((0, False),))]
    for shown in (0, 1):
        first, again = problem.first[shown], problem.again[shown]
        result.append(Way((first,), ((0, True), (1 + shown, False))))
        result.append(Way((first, again), ((0, True), (1 + shown, True))))
    return result


def log_probability(way: Way, logits: Tensor) -> Tensor:
    """The policy's part: what is shown does not depend on it."""
    return sum(
        (
            torch.nn.functional.logsigmoid(logits[which] if searched else -logits[which])
            for which, searched in way.decisions
        ),
        logits.new_zeros(()),
    )


def true_gradient(problem: Problem) -> Tensor:
    """∇ of the expected sum of gains, by the logit of searching at each decision."""
    logits = torch.tensor(problem.search, dtype=torch.float64).logit().requires_grad_()
    expected = logits.new_zeros(())
    for way in ways_of(problem):
        expected = expected + _shown(way) * log_probability(way, logits).exp() * sum(way.gains)
    return torch.autograd.grad(expected, logits)[0]


def immediate_gradient(problem: Problem) -> Tensor:
    """∇ by each decision of the gain that the search itself brings, as if nothing came after it."""
    chance, after_a, after_b = problem.search
    return torch.tensor(
        [
            chance * (1 - chance) * sum(problem.first) / 2,
            chance / 2 * after_a * (1 - after_a) * problem.again[0],
            chance / 2 * after_b * (1 - after_b) * problem.again[1],
        ],
        dtype=torch.float64,
    )


def expected_gradient(problem: Problem, n_rollouts: int, baseline: str, **options: float) -> Tensor:
    """Expectation of 1/n Σ_i Σ_t Â_{i,t}·∇log π over every batch of `n_rollouts` rollouts that can happen."""
    ways = ways_of(problem)
    logits = torch.tensor(problem.search, dtype=torch.float64).logit()
    probability = torch.stack([_shown(way) * log_probability(way, logits).exp() for way in ways])
    batches = torch.tensor(list(itertools.product(range(len(ways)), repeat=n_rollouts)))
    advantage = _advantage(ways, batches, baseline, **options)
    # A turn's decision is the same wherever its path occurs, and so is the gradient of its log-probability.
    slope = torch.zeros(len(ways), advantage.shape[-1], len(logits), dtype=torch.float64)
    for i, way in enumerate(ways):
        for turn, (which, searched) in enumerate(way.decisions):
            slope[i, turn, which] = float(searched) - problem.search[which]
    gradient = (advantage[..., None] * slope[batches]).sum(dim=2).mean(dim=1)
    return (probability[batches].prod(dim=1)[:, None] * gradient).sum(dim=0)


def _shown(way: Way) -> float:
    return 0.5 if way.gains else 1.0


def _advantage(ways: list[Way], batches: Tensor, baseline: str, **options: float) -> Tensor:
    """Credit every batch as one prompt of one call; all outcomes are equal, so that gains alone speak."""
    width = max(len(way.gains) for way in ways) + 1
    gain = torch.tensor([[*way.gains, *[0.0] * (width - len(way.gains))] for way in ways], dtype=torch.float64)
    n_gains = torch.tensor([len(way.gains) for way in ways])
    rollout = batches.flatten()
    credit = core.turn_credit(
        gain[rollout],
        torch.arange(width) < n_gains[rollout][:, None],
        torch.zeros(len(rollout), dtype=torch.float64),
        torch.arange(len(batches)).repeat_interleave(batches.shape[1]),
        n_turns=n_gains[rollout] + 1,
        baseline=baseline,
        **options or {"std_floor": NO_DIVISION, "alpha": NO_DIVISION, "rescale": False},
    )
    return credit.advantage.view(*batches.shape, width)


def main() -> None:
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "baseline_bias", "svg.fonttype": "none", "font.size": 9}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True, layout="constrained")
    n_rollouts = 4
    for axis, problem, title in zip(
        axes, (HELPS, HURTS), ("another search helps", "another search hurts"), strict=True
    ):
        bars = {
            "policy gradient": true_gradient(problem),
            "absorbing, times 4/3": expected_gradient(problem, n_rollouts, "absorbing") * n_rollouts / (n_rollouts - 1),
            "active, times 4/3": expected_gradient(problem, n_rollouts, "active") * n_rollouts / (n_rollouts - 1),
            "survivors, times 4/3": expected_gradient(problem, n_rollouts, "survivors") * n_rollouts / (n_rollouts - 1),
        }
        print(title)
        for i, (name, gradient) in enumerate(bars.items()):
            print(f"  {name:22}", "  ".join(f"{value:+.4f}" for value in gradient.tolist()))
            axis.bar([x + 0.2 * (i - 1.5) for x in range(3)], gradient.tolist(), 0.19, label=name)
        for baseline in ("absorbing", "active", "survivors"):
            trained = expected_gradient(problem, n_rollouts, baseline, std_floor=1e-6)
            print(f"  {baseline + ', as trained':22}", "  ".join(f"{value:+.4f}" for value in trained.tolist()))
        axis.set_title(title)
        axis.set_xticks(range(3), DECISIONS)
        axis.axhline(0, color="black", linewidth=0.8)
    axes[0].set_ylabel("expected gradient towards searching")
    axes[0].legend(frameon=False)
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
