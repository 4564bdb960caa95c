"""What verl lacks on a machine without a GPU: a platform, process groups, a rollout server, and a way for weights.

Loaded in every process of a test run through `VERL_USE_EXTERNAL_MODULES=tests.verl.stand_in`, with `VERL_PLATFORM=cpu`,
`VERL_ENGINE_DEVICE=cuda`, `actor_rollout_ref.rollout.name=stand_in` and `+ray_kwargs.ray_init.num_gpus=N`, which are
declared and not real.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class _Device:
    """The functions of `torch.cuda` that verl calls, for the CPU."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "get_device_name":
            return lambda *_, **__: "CPU"
        if name == "mem_get_info":
            return lambda *_, **__: (1 << 34, 1 << 34)
        return getattr(torch.cpu, name, lambda *_, **__: 0)


@PlatformRegistry.register(platform="cpu")
class CPUPlatform(PlatformBase):
    """A platform that is found only by name."""

    device_name = vendor_name = "cpu"
    device_module = _Device()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return False

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, index: int) -> None: ...

    def synchronize(self, index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "A2TGPO_TEST_DEVICES"

    @contextmanager
    def nvtx_range(self, message: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def _register() -> None:
    from torch.distributed.fsdp import CPUOffloadPolicy
    from verl.utils.distributed import initialize_global_process_group_ray
    from verl.workers import engine_workers
    from verl.workers.engine.fsdp import transformer_impl
    from verl.workers.rollout import base
    from verl.workers.rollout.base import BaseRollout
    from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry
    from verl.workers.rollout.utils import ensure_async_iterator

    from tests.verl import tag_tool, weight_transfer  # noqa: F401  # they register themselves
    from tests.verl.rollout_server import Server

    # verl asks for "cpu:gloo,cpu:gloo", which torch refuses.
    engine_workers.initialize_global_process_group_ray = partial(
        initialize_global_process_group_ray, backend="cpu:gloo"
    )
    # verl pins a reference policy's memory, which takes a GPU.
    transformer_impl.CPUOffloadPolicy = lambda pin_memory=True: CPUOffloadPolicy(pin_memory=False)

    class Adapter(BaseRollout):
        """Hand the actor's weights to the server of this rank."""

        def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
            super().__init__(config, model_config, device_mesh)
            self.replica_rank = int(os.environ["RANK"]) if replica_rank < 0 else replica_rank
            self.is_leader_rank = True

        async def resume(self, tags: list[str]) -> None: ...

        async def release(self) -> None: ...

        async def update_weights(self, weights: Any, global_steps: int | None = None, **_: Any) -> None:
            found = ensure_async_iterator(weights)
            state = {name: weight.detach().cpu().float() async for name, weight in found}
            await ray.get_actor(f"stand_in_server_{self.replica_rank}").load.remote(state, global_steps)

    class Replica(RolloutReplica):
        """One server a rank."""

        async def launch_servers(self) -> None:
            options = {"name": f"stand_in_server_{self.replica_rank}", "num_cpus": 0}
            server = ray.remote(Server).options(**options).remote(self.model_config.path)
            self.servers, self._server_handle = [server], server
            self._server_address = f"stand-in-{self.replica_rank}"

    globals()["Adapter"] = Adapter
    base._ROLLOUT_REGISTRY[("stand_in", "async")] = f"{__name__}.Adapter"
    RolloutReplicaRegistry.register("stand_in", lambda: Replica)


_register()
