"""Join rows over the processes of an `Accelerator`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType, gather_object
from torch import Tensor

if TYPE_CHECKING:
    from accelerate import Accelerator
    from jaxtyping import Shaped


class AccelerateCollective:
    """Be a `pipeline.Collective` over the processes that `accelerator` has set up."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    @property
    def rank(self) -> int:
        return self._accelerator.process_index

    @property
    def size(self) -> int:
        return self._accelerator.num_processes

    def gather(self, rows: Shaped[Tensor, "*rows"], padding: int = 0) -> Shaped[Tensor, "*all_rows"]:
        if rows.dim() > 1:
            rows = self._accelerator.pad_across_processes(rows, dim=1, pad_index=padding)
        return self._accelerator.gather(rows)

    def gather_objects(self, items: list[Any]) -> list[Any]:
        return gather_object(items)

    def any(self, here: bool) -> bool:
        return bool(self._accelerator.reduce(torch.tensor(float(here), device=self._accelerator.device)) > 0)


def sharded_by(accelerator: Accelerator) -> str | None:
    """Name what keeps the parameters in shards, "FSDP", "FSDP2" or "DeepSpeed ZeRO-3"; None where every process has
    them all."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "FSDP2" if getattr(accelerator, "is_fsdp2", False) else "FSDP"
    plugin = accelerator.state.deepspeed_plugin
    zero_3 = accelerator.distributed_type == DistributedType.DEEPSPEED and plugin is not None and plugin.zero_stage == 3
    return "DeepSpeed ZeRO-3" if zero_3 else None
