"""How the rollouts of a prompt are made: the choices. `a2tgpo.rollout` carries them out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Independent:
    """Every rollout of a prompt is sampled from the question on."""


@dataclass(frozen=True)
class Refill:
    """Prompts whose rollouts all have the same reward are replaced by new ones (DAPO, arXiv 2503.14476).

    Attributes:
        max_batches: batches sampled at most, the first included, before a step goes on with what it has.
    """

    max_batches: int = 10

    def __post_init__(self) -> None:
        _at_least("max_batches", self.max_batches, 1, "1 samples no refill; Independent() says that")


@dataclass(frozen=True)
class Tree:
    """M rollouts per prompt, then L rounds of N branches from random turns of each (Tree-GRPO, arXiv 2509.21240).

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
        """Rollouts per prompt: M·(L·N + 1)."""
        return self.trees * (self.rounds * self.branches + 1)


@dataclass(frozen=True)
class EntropyBranch:
    """Rollouts branch where an observation leaves the policy unsure (after AEPO, arXiv 2510.14545).

    A turn branches where (H − H₁)·(1 − damping·l) > threshold: H is the mean entropy of its first tokens, H₁ that of
    the rollout's first turn, and l the number of turns right above it that branched. AEPO adds a constant to H − H₁,
    scales it, and sets the number of initial rollouts anew at each prompt; none of these is kept here.

    Attributes:
        initial: rollouts per prompt sampled from the question on; branches fill up the rest.
        beam: ways in which a turn that branches goes on, the original included.
        threshold: in nats.
        damping: in [0, 1]; 0 lets a path branch at every turn (ARPO, arXiv 2507.19849).
    """

    initial: int = 4
    beam: int = 2
    threshold: float = 0.2
    damping: float = 0.2

    def __post_init__(self) -> None:
        _at_least("initial", self.initial, 1, "branches need a rollout to grow from")
        _at_least("beam", self.beam, 2, "1 would not branch; Independent() says that")
        if not 0 <= self.damping <= 1:
            raise ValueError(f"damping is {self.damping}; pass a number between 0, which damps nothing, and 1")


Sampling = Independent | Refill | Tree | EntropyBranch


def _at_least(name: str, value: int, low: int, remedy: str) -> None:
    if value < low:
        raise ValueError(f"{name} is {value}; pass at least {low}: {remedy}")
