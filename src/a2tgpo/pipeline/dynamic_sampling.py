"""DAPO's dynamic sampling: zero-variance groups are replaced by other prompts before the update."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from a2tgpo.pipeline.collective import Collective
from a2tgpo.rollout.strategies import DynamicSampling

if TYPE_CHECKING:
    from jaxtyping import Float

Row = dict[str, Any]
G = TypeVar("G")


@dataclass(frozen=True)
class Sampled(Generic[G]):
    """Hold a batch that was sampled until it had enough to learn from.

    Attributes:
        rows: the data set's row of each rollout.
        generated: each rollout, in whatever form the engine has it.
        batches: batches sampled, the first included.
    """

    rows: list[Row]
    generated: list[G]
    batches: int


@dataclass
class DynamicSampler(Generic[G]):
    """Replace the prompts of a batch whose rollouts all earned the same (DAPO, arXiv 2503.14476).

    After `max_batches` batches the step goes on with what it has. Each step draws
    its replacements in an order of its own, so that a run that was interrupted draws what the unbroken one would have.

    Args:
        bound: on the batches of a step.
        dataset: the training set: its length and its rows.
        group_size: rollouts per prompt; a process holds whole groups.
        generate: makes one rollout for each row; a collective.
        rewards: of this process's rollouts, NaN where none applies; a collective.
        collective: the processes that have to agree on another batch.
        seed: of the replacements' order.
    """

    bound: DynamicSampling
    dataset: Sequence[Row]
    group_size: int
    generate: Callable[[list[Row]], list[G]]
    rewards: Callable[[list[Row], list[G]], Float[Tensor, " B"]]
    collective: Collective
    seed: int

    def sample(self, rows: Sequence[Row], step: int) -> Sampled[G]:
        """Generate for `rows`, and for others in place of those whose group has no variance.

        Args:
            rows: the data set's row of each rollout, group after group.
            step: updates made so far; with the seed it says which rows are drawn.
        """
        rows, replacements = list(rows), self._replacements(step)
        generated = self.generate(rows)
        batches = 1
        replaceable = self._zero_variance(rows, generated)
        while batches < self.bound.max_batches and self.collective.any(bool(replaceable)):
            drawn = itertools.islice(replacements, len(rows) // self.group_size)
            others = [copy.deepcopy(row) for row in drawn for _ in range(self.group_size)]
            fresh = self.generate(others)
            useful = sorted(set(range(len(others) // self.group_size)) - set(self._zero_variance(others, fresh)))
            # A batch is sampled whole, so that every process generates equally often; what is not needed is dropped.
            for old, new in zip(list(replaceable), useful, strict=False):
                here, there = self._rows_of(old), self._rows_of(new)
                rows[here], generated[here] = others[there], fresh[there]
                replaceable.remove(old)
            batches += 1
        return Sampled(rows, generated, batches)

    def _zero_variance(self, rows: list[Row], generated: list[G]) -> list[int]:
        """Return the groups whose rollouts all have the same outcome; those without one count for nothing."""
        groups = self.rewards(rows, generated).view(-1, self.group_size)
        lowest, highest = groups.nan_to_num(nan=torch.inf).amin(1), groups.nan_to_num(nan=-torch.inf).amax(1)
        return (lowest >= highest).nonzero().flatten().tolist()

    def _rows_of(self, group: int) -> slice:
        return slice(group * self.group_size, (group + 1) * self.group_size)

    def _replacements(self, step: int) -> Iterator[Row]:
        generator = random.Random(f"{self.seed}, step {step}")
        while True:
            for index in generator.sample(range(len(self.dataset)), len(self.dataset)):
                yield self.dataset[index]
