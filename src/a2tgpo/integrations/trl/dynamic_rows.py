"""Dynamic sampling of TRL's rows: what TRL generates and rewards, rollout by rollout."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from trl import GRPOTrainer

from a2tgpo.integrations.trl.generation_batch import GeneratedRollout, join_rollouts, split_rollouts, weigh_rewards
from a2tgpo.pipeline.dynamic_sampling import DynamicSampler, Row
from a2tgpo.rollout.strategies import DynamicSampling
from a2tgpo.rollout.types import NOT_THE_POLICYS, Rollout

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer


def open_dynamic_sampler(trainer: A2TGPOTrainer) -> DynamicSampler[GeneratedRollout] | None:
    """Return the sampling of `trainer`'s method, or None where it keeps its prompts.

    Raises:
        ValueError: a training set that cannot be walked through, a prompt whose rollouts lie in two processes, or
            environments, which TRL resets once for a batch and asks for their rewards when it is whole.
    """
    bound, name = trainer.method.sampling, trainer.method.name
    if not isinstance(bound, DynamicSampling):
        return None
    if trainer.environment_factories is not None:
        raise ValueError(
            f"environment_factory is given: method {name!r} replaces prompts after their rollouts, when "
            "their environments are used up; pass tools= or rollout_func=, or another method"
        )
    if not isinstance(trainer.train_dataset, Dataset):
        raise ValueError(
            f"train_dataset is {type(trainer.train_dataset).__name__}: method {name!r} draws "
            "replacement prompts from it; pass a Dataset with a length"
        )
    rows = trainer.args.per_device_train_batch_size * trainer.args.steps_per_generation
    if rows % trainer.num_generations:
        raise ValueError(
            f"num_generations={trainer.num_generations}: method {name!r} replaces whole prompts, and a "
            f"process generates {rows} rollouts; make that a multiple of num_generations"
        )
    collective = trainer.collective

    def generate(rows: list[Row]) -> list[GeneratedRollout]:
        _give_tools(trainer, len(rows))
        return split_rollouts(trainer._generate_once([row["prompt"] for row in rows]))

    def rewards(rows: list[Row], generated: list[GeneratedRollout]) -> torch.Tensor:
        known = [row | one.extra_fields for row, one in zip(rows, generated, strict=True)]
        prompts, joined = [row["prompt"] for row in known], join_rollouts(generated)
        per_func = GRPOTrainer._calculate_rewards(trainer, known, prompts, joined.completions, joined.completion_ids)
        own = weigh_rewards(per_func, trainer.reward_weights)[collective.rank * len(rows) :][: len(rows)].cpu()
        return own.masked_fill(torch.tensor([_failed(row.get("rollout")) for row in known]), torch.nan)

    seed = trainer.args.seed + collective.rank
    return DynamicSampler(bound, trainer.train_dataset, trainer.num_generations, generate, rewards, collective, seed)


def _failed(record: Any) -> bool:
    return isinstance(record, Rollout) and record.termination in NOT_THE_POLICYS


def _give_tools(trainer: A2TGPOTrainer, n_rows: int) -> None:
    """Give each of `n_rows` rollouts the tools that TRL's loop looks up by rollout, as TRL does for its own batch."""
    by_kind: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for tool in trainer.tools or ():
        by_kind[inspect.iscoroutinefunction(tool)][tool.__name__] = tool
    trainer._sync_tool_dicts, trainer._async_tool_dicts = [by_kind[False]] * n_rows, [by_kind[True]] * n_rows
