"""Let accelerate shard a model over processes without GPUs, which it keeps for those that have some: a plug-in."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

_begin = PartialState.__init__


def _joined(self: PartialState, *arguments: Any, **options: Any) -> None:
    _begin(self, *arguments, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


PartialState.__init__ = _joined
