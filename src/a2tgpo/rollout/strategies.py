"""Choose how the rollouts of a prompt are made; the rest of `a2tgpo.rollout` carries it out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Independent:
    """Sample every rollout of a prompt from the question on."""


@dataclass(frozen=True)
class DynamicSampling:
    """Replace zero-variance groups (prompts whose rollouts all have one reward) by new ones (DAPO, arXiv 2503.14476).

    Attributes:
        max_batches: batches sampled at most, the first included, before a step goes on with what it has.
    """

    max_batches: int = 10

    def __post_init__(self) -> None:
        _at_least("max_batches", self.max_batches, 1, "1 replaces nothing; Independent() says that")


@dataclass(frozen=True)
class Tree:
    """Sample M rollouts per prompt, then L rounds of N branches at random nodes of each (Tree-GRPO, arXiv 2509.21240).

    A node is the prompt, or a search with its result after which a turn was sampled. Every round draws the N nodes of
    a tree uniformly and with replacement among all it has by then, as the published code does; a branch is sampled anew
    after its node, to its end. The paper's runs on multi-hop questions have M = N = 2 and L = 1.

    Attributes:
        trees: M.
        branches: N, new rollouts per tree and round.
        rounds: L.
    """

    trees: int = 4
    branches: int = 1
    rounds: int = 1

    def __post_init__(self) -> None:
        for name in ("trees", "branches", "rounds"):
            _at_least(name, getattr(self, name), 1, "a tree grows from 1 rollout by 1 branch in 1 round at least")

    @property
    def n_rollouts(self) -> int:
        """Return the rollouts per prompt: M·(L·N + 1)."""
        return self.trees * (self.rounds * self.branches + 1)


@dataclass(frozen=True)
class EntropyBranch:
    """Branch rollouts, more readily the less sure the policy is (AEPO, arXiv 2510.14545; ARPO, arXiv 2507.19849).

    Where a turn is followed by an observation, the rollout may branch there: each of `beam − 1` copies of it, prefix
    and result included, goes on by itself with probability

        p = 1 − threshold/(1 − damping·l) + weight·(H − H₁), cut to [0, 1]

    until the prompt has all its rollouts. H is the mean entropy of the turn's first `entropy_tokens` tokens, H₁ that
    of the rollout's first turn, and l the number of turns right above it after which the path branched. Rollouts
    still missing when all have ended are sampled from the question on.

    AEPO's published code has this rule as (u + weight·(H − H₁))·(1 − damping·l) ≥ threshold, u uniform in [0, 1]; the
    paper has a constant for u. Three things differ. The code's H sums the entropies of 20 tokens over their ten
    likeliest successors and divides by the logarithm of the vocabulary's size, so that its weight of 0.2 is 0.34 per
    nat of the mean with Qwen's vocabulary. Its l belongs to the prompt: the number of consecutive rounds of generation,
    up to this one, in which any of the prompt's rollouts branched, back at 0 after a round in which none did. Ours
    belongs to the path, because an engine that does not wait for the slowest rollout has no rounds. And it sets
    `initial` anew for each prompt, near half of all: ⌊k·σ((H_question − H_turns)/2)⌋ + 1 of k, from one more that it
    throws away.

    Attributes:
        initial: rollouts per prompt sampled from the question on; ARPO's scripts have 8 of 16.
        beam: ways in which a rollout goes on after a turn at most, itself included.
        weight: rise of the probability per nat; 0 branches by chance alone. This and `threshold` as in ARPO's scripts.
        threshold: in [0, 1]; 1 minus the probability where the entropy is that of the first turn.
        damping: in [0, 1]; 0 lets a path branch after every turn alike (ARPO).
        entropy_tokens: tokens at the start of a turn whose entropy counts.
    """

    initial: int = 4
    beam: int = 2
    weight: float = 0.34
    threshold: float = 0.5
    damping: float = 0.05
    entropy_tokens: int = 20

    def __post_init__(self) -> None:
        _at_least("initial", self.initial, 1, "branches need a rollout to grow from")
        _at_least("beam", self.beam, 2, "1 would not branch; Independent() says that")
        _at_least("entropy_tokens", self.entropy_tokens, 1, "the entropy of no token says nothing")
        if self.weight < 0:
            raise ValueError(f"weight is {self.weight}; pass at least 0: less would branch where the policy is sure")
        for name, remedy in (("threshold", "which always branches"), ("damping", "which damps nothing")):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; pass a number between 0, {remedy}, and 1")

    def probability(self, rise: float, consecutive: int) -> float:
        """Return p of a turn whose entropy is `rise` = H − H₁ nats above the first one's, `consecutive` = l."""
        kept = 1 - self.damping * consecutive
        if kept <= 0:
            return 0.0
        return min(1.0, max(0.0, 1 - self.threshold / kept + self.weight * rise))


Sampling = Independent | DynamicSampling | Tree | EntropyBranch


def check_group_size(sampling: Sampling, num_generations: int) -> None:
    """Raise `ValueError` unless `sampling` makes `num_generations` rollouts per prompt."""
    if isinstance(sampling, Tree) and num_generations != sampling.n_rollouts:
        raise ValueError(
            f"num_generations={num_generations}: {sampling} grows {sampling.n_rollouts} rollouts per prompt; "
            f"set num_generations={sampling.n_rollouts}, or trees·(rounds·branches + 1) to {num_generations}"
        )
    if isinstance(sampling, EntropyBranch) and num_generations < sampling.initial:
        raise ValueError(
            f"num_generations={num_generations}: {sampling} starts with {sampling.initial} rollouts per prompt; "
            f"set num_generations to at least {sampling.initial}, or initial to at most {num_generations}"
        )


def _at_least(name: str, value: int, low: int, remedy: str) -> None:
    if value < low:
        raise ValueError(f"{name} is {value}; pass at least {low}: {remedy}")
