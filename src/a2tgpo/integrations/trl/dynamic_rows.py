"""Dynamic sampling of TRL's rows: what it needs of a training set, and rollouts generated outside TRL's own batch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset

from a2tgpo.integrations.trl.generation_batch import GeneratedRollout
from a2tgpo.methods import Method
from a2tgpo.pipeline import Collective
from a2tgpo.pipeline.dynamic_sampling import DynamicSampler, Row
from a2tgpo.rollout.strategies import DynamicSampling


def open_dynamic_sampler(
    method: Method,
    dataset: Any,
    *,
    group_size: int,
    rows_per_batch: int,
    in_environments: bool,
    generate: Callable[[list[Row]], list[GeneratedRollout]],
    rewards: Callable[[list[Row], list[GeneratedRollout]], torch.Tensor],
    collective: Collective,
    seed: int,
) -> DynamicSampler[GeneratedRollout] | None:
    """Return the sampler of `method`, or None where it keeps its prompts; see `DynamicSampler`.

    Args:
        rows_per_batch: rollouts that a process generates together.
        in_environments: whether TRL runs the rollouts in environments.

    Raises:
        ValueError: a training set that cannot be walked through, a prompt whose rollouts lie in two processes, or
            environments, which TRL resets once for a batch and asks for their rewards when it is whole.
    """
    bound = method.sampling
    if not isinstance(bound, DynamicSampling):
        return None
    if in_environments:
        raise ValueError(
            f"environment_factory is given: method {method.name!r} replaces prompts after their rollouts, when "
            "their environments are used up; pass tools= or rollout_func=, or another method"
        )
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"train_dataset is {type(dataset).__name__}: method {method.name!r} draws "
            "replacement prompts from it; pass a Dataset with a length"
        )
    if rows_per_batch % group_size:
        raise ValueError(
            f"num_generations={group_size}: method {method.name!r} replaces whole prompts, and a "
            f"process generates {rows_per_batch} rollouts; make that a multiple of num_generations"
        )
    return DynamicSampler(bound, dataset, group_size, generate, rewards, collective, seed + collective.rank)


def tool_dicts(tools: list[Any] | None, n_rows: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the synchronous and the asynchronous tools of each of `n_rows` rollouts, as TRL's loop looks them up."""
    by_kind: dict[bool, dict[str, Any]] = {True: {}, False: {}}
    for tool in tools or ():
        by_kind[inspect.iscoroutinefunction(tool)][tool.__name__] = tool
    return [by_kind[False]] * n_rows, [by_kind[True]] * n_rows
