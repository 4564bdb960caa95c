"""vLLM as rollout engine on a machine without a GPU; loaded beside `tests.verl.stand_in`, for a run by hand.

vLLM on the CPU packs a layer's weights and drops what it packed, so that verl could not load new ones.
"""

from __future__ import annotations

from typing import Any

import ray
from verl.workers.rollout.replica import RolloutReplicaRegistry
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica


class KeepsWeights(vLLMColocateWorkerExtension):
    """verl's extension of vLLM's workers, on weights that are not packed away."""

    def __new__(cls, **options: Any) -> Any:
        from vllm.model_executor.layers import utils

        dispatch = utils.dispatch_cpu_unquantized_gemm
        utils.dispatch_cpu_unquantized_gemm = lambda layer, remove_weight: dispatch(layer, False)
        return super().__new__(cls, **options)


class Server(vLLMHttpServer):
    """verl's server, with that extension."""

    def _get_worker_extension_cls(self) -> str:
        return f"{__name__}.KeepsWeights"


class Replica(vLLMReplica):
    """verl's replica, with that server."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.server_class = ray.remote(Server)


RolloutReplicaRegistry.register("vllm", lambda: Replica)
