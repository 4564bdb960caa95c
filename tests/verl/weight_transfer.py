"""A way for weights from trainers to rollout servers on devices of their own, for machines without NCCL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import ray
import torch
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry


class Mailbox:
    """Hold the latest weights in an actor."""

    def __init__(self) -> None:
        self.step, self.state = -1, {}

    async def put(self, step: int, state: dict[str, torch.Tensor]) -> None:
        self.step, self.state = step, state

    async def get(self, step: int) -> dict[str, torch.Tensor]:
        while self.step < step:
            await asyncio.sleep(0.05)
        return self.state


def mailbox() -> Any:
    """The one of this run."""
    options = {"name": "stand_in_mailbox", "get_if_exists": True, "lifetime": "detached", "num_cpus": 0}
    return ray.remote(Mailbox).options(**options).remote()


@CheckpointEngineRegistry.register("stand_in")
class ThroughMailbox(CheckpointEngine):
    """The first trainer puts weights into the mailbox, each server's worker takes them out."""

    def __init__(self, bucket_size: int, is_master: bool = False, **_: Any) -> None:
        self.is_master = is_master

    def prepare(self) -> dict[str, Any]:
        self.box = mailbox()
        return {}

    @classmethod
    def build_topology(cls, n_actors: int, n_rollouts: int, metadata: list[dict[str, Any]]) -> tuple[Any, Any]:
        return {"rank": list(range(n_actors))}, {"rank": list(range(n_rollouts))}

    def init_process_group(self, rank: int) -> None: ...

    def finalize(self) -> None: ...

    async def send_weights(self, weights: Any, global_steps: int | None = None) -> None:
        state = {name: weight.detach().cpu().clone() for name, weight in weights}  # a collective of the trainers
        if self.is_master:
            await self.box.put.remote(global_steps, state)

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        for name, weight in (await self.box.get.remote(global_steps)).items():
            yield name, weight
