"""Whether a process holds the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate.utils import DistributedType

if TYPE_CHECKING:
    from accelerate import Accelerator


def sharded_by(accelerator: Accelerator) -> str | None:
    """What keeps the parameters in shards, "FSDP" or "DeepSpeed ZeRO-3"; None where every process has all of them."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "FSDP"
    plugin = accelerator.state.deepspeed_plugin
    zero_3 = accelerator.distributed_type == DistributedType.DEEPSPEED and plugin is not None and plugin.zero_stage == 3
    return "DeepSpeed ZeRO-3" if zero_3 else None
