"""Let accelerate use DeepSpeed over processes without GPUs, which it keeps for those that have some: a plug-in."""

from __future__ import annotations

import os
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

_begin = PartialState.__init__


def _joined(self: PartialState, cpu: bool = False, **options: Any) -> None:
    _begin(self, cpu=False, **options)  # what runs on the CPU by accelerate's own lights has no DeepSpeed


def _backend(*_: Any, **__: Any) -> tuple[str, DistributedType]:
    return "gloo", DistributedType.MULTI_GPU


if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":  # and not where the recipe that names this is only read
    os.environ |= {"DS_ACCELERATOR": "cpu", "ACCELERATE_TORCH_DEVICE": "cpu"}
    PartialState.__init__ = _joined
    PartialState._prepare_backend = _backend
