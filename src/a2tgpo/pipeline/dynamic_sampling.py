"""DAPO's dynamic sampling: prompts that teach nothing are replaced by others before the step is taken."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import GRPOTrainer

from a2tgpo.pipeline.collective import any_process
from a2tgpo.pipeline.outcome import tool_failed, weighted
from a2tgpo.rollout.strategies import DynamicSampling

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer

Generated = list[Any]
"""What TRL's `_generate` returns: lists over the rows, a dict of such lists, or None."""


@dataclass
class Refiller:
    """Replaces the prompts of a batch whose rollouts all earned the same (DAPO, arXiv 2503.14476).

    Rows and what was generated for them change in place, so that TRL goes on with the replacements as if they had been
    the batch. After `max_batches` batches the step goes on with what it has. Replacements walk through the training set
    in an order of their own, seeded as the run is.

    Args:
        refill: the bound.
        dataset: the training set.
        group_size: rollouts per prompt; a process holds whole groups.
        rewards: the outcome of each of this process's rows, for rows that carry their rollout's fields; a collective.
        any_process: whether something holds in any process; a collective.
        seed: of the replacements' order.
    """

    refill: DynamicSampling
    dataset: Dataset
    group_size: int
    rewards: Callable[[list[dict[str, Any]], Generated], torch.Tensor]
    any_process: Callable[[bool], bool]
    seed: int

    def __post_init__(self) -> None:
        self._replacements = self._walk()

    def run(self, rows: list[dict[str, Any]], generated: Generated, generate: Callable[[list[Any]], Generated]) -> int:
        """Refill `rows` and `generated`; returns the batches sampled, the first included."""
        batches = 1
        dull = self._dull(rows, generated)
        while batches < self.refill.max_batches and self.any_process(bool(dull)):
            others = [copy.deepcopy(row) for row in self._next(len(rows) // self.group_size) for _ in self._group(0)]
            fresh = generate([row["prompt"] for row in others])
            taught = sorted(set(range(len(others) // self.group_size)) - set(self._dull(others, fresh)))
            # A batch is sampled whole, so that every process generates equally often; what is not needed is dropped.
            for old, new in zip(list(dull), taught, strict=False):
                self._replace(rows, generated, old, others, fresh, new)
                dull.remove(old)
            batches += 1
        return batches

    def _dull(self, rows: list[dict[str, Any]], generated: Generated) -> list[int]:
        """Groups whose rollouts all have the same outcome; those without one say nothing."""
        groups = self.rewards(rows, generated).view(-1, self.group_size)
        lowest, highest = groups.nan_to_num(nan=torch.inf).amin(1), groups.nan_to_num(nan=-torch.inf).amax(1)
        return (lowest >= highest).nonzero().flatten().tolist()

    def _replace(
        self, rows: list[Any], generated: Generated, old: int, others: list[Any], fresh: Generated, new: int
    ) -> None:
        for to, source in zip(self._group(old), self._group(new), strict=True):
            rows[to] = others[source]
            for mine, theirs in zip(generated, fresh, strict=True):
                _put(mine, to, theirs, source)

    def _group(self, number: int) -> range:
        return range(number * self.group_size, (number + 1) * self.group_size)

    def _next(self, count: int) -> Sequence[dict[str, Any]]:
        return list(itertools.islice(self._replacements, count))

    def _walk(self) -> Iterator[dict[str, Any]]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            for index in torch.randperm(len(self.dataset), generator=generator).tolist():
                yield self.dataset[index]


def _put(mine: Any, to: int, theirs: Any, source: int) -> None:
    if isinstance(mine, dict):
        for key, values in mine.items():
            values[to] = theirs[key][source]
    elif mine:
        mine[to] = theirs[source]


def refiller(trainer: A2TGPOTrainer) -> Refiller | None:
    """The refiller of the trainer's method, or None where it keeps its prompts.

    Raises:
        ValueError: a training set that cannot be walked through, a prompt whose rollouts lie on two processes, or
            environments, which TRL resets once for a batch and asks for their rewards when it is whole.
    """
    sampling = trainer.method.sampling
    if not isinstance(sampling, DynamicSampling):
        return None
    if trainer.environment_factories is not None:
        raise ValueError(
            f"environment_factory is given: method {trainer.method.name!r} replaces prompts after their rollouts, when "
            "their environments are used up; pass tools= or rollout_func=, or another method"
        )
    if not isinstance(trainer.train_dataset, Dataset):
        raise ValueError(
            f"train_dataset is {type(trainer.train_dataset).__name__}: method {trainer.method.name!r} draws "
            "replacement prompts from it; pass a Dataset with a length"
        )
    rows = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    if rows % trainer.num_generations:
        raise ValueError(
            f"num_generations={trainer.num_generations}: method {trainer.method.name!r} replaces whole prompts, and a "
            f"process generates {rows} rollouts; make that a multiple of num_generations"
        )
    accelerator = trainer.accelerator

    def rewards(rows: list[dict[str, Any]], generated: Generated) -> torch.Tensor:
        _, completion_ids, _, completions, _, extra, *_ = generated
        for number, row in enumerate(rows):
            row.update({name: values[number] for name, values in extra.items()})
        prompts = [row["prompt"] for row in rows]
        rewards_per_func = GRPOTrainer._calculate_rewards(trainer, rows, prompts, completions, completion_ids)
        first = accelerator.process_index * len(rows)
        outcome = weighted(trainer, rewards_per_func)[first : first + len(rows)].cpu()
        return outcome.masked_fill(torch.tensor(tool_failed(rows)), torch.nan)

    seed = trainer.args.seed + accelerator.process_index
    return Refiller(
        sampling, trainer.train_dataset, trainer.num_generations, rewards, partial(any_process, accelerator), seed
    )
