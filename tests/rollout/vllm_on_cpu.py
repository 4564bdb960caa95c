"""vLLM without a GPU: what its tests replace in it, in their own process and, as a plugin, in a server's.

Replaced are what carries the weights' bytes and the layout that vLLM's CPU kernels give to weights. The tensors' order
and packing on their way, the server's endpoints, its reloading of layers and TRL's client are theirs.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

PLUGIN = "vllm_on_cpu"


def replacements() -> list[tuple[Any, str, Any]]:
    """Module, name and value: weights that can be replaced, and a group that sends them without NCCL."""
    from vllm.distributed.weight_transfer import nccl_common, packed_tensor
    from vllm.model_executor.layers import utils

    return [
        (utils, "dispatch_cpu_unquantized_gemm", keep_weights),
        (nccl_common, "stateless_init_process_group", _join),
        (nccl_common, "torch", _TorchOnCPU()),
        (packed_tensor, "torch", _TorchOnCPU()),
    ]


def replace() -> None:
    """What vLLM's plugin loader calls."""
    for module, name, value in replacements():
        setattr(module, name, value)


def keep_weights(layer: Any, remove_weight: bool) -> None:
    """In place of packing a layer's weights once and for all, after which none can be loaded."""
    layer.cpu_linear = torch.nn.functional.linear


def write_plugin(folder: Path) -> None:
    """Make `replace` a plugin of every vLLM that has `folder` and this project in its path.

    The package for CPUs has another name than `vllm serve` looks itself up by, and is known by its version.
    """
    import vllm

    entry = f"[vllm.general_plugins]\n{PLUGIN} = {__name__}:{replace.__name__}\n"
    for name, version, entry_points in ((PLUGIN, "0", entry), ("vllm", f"{vllm.__version__}+cpu", "")):
        metadata = folder / f"{name}-{version}.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text(entry_points)


def _join(address: str, port: int, rank: int, world_size: int, device: Any) -> _StoreGroup:
    from vllm.distributed.utils import StatelessProcessGroup

    return _StoreGroup(StatelessProcessGroup.create(host=address, port=port, rank=rank, world_size=world_size))


class _StoreGroup:
    """In place of NCCL's group: tensors go through the store that the group's processes met in."""

    def __init__(self, group: Any) -> None:
        self.group = group

    def broadcast(self, tensor: torch.Tensor, src: int) -> None:
        if self.group.rank == src:
            self.group.broadcast_obj(tensor, src)
        else:
            tensor.copy_(self.group.broadcast_obj(None, src))


class _TorchOnCPU:
    """`torch` for modules that ask for CUDA's streams and for the index of a device."""

    accelerator = SimpleNamespace(current_device_index=lambda: 0)
    cuda = SimpleNamespace(
        Stream=lambda device: SimpleNamespace(synchronize=lambda: None), stream=lambda _: contextlib.nullcontext()
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class TorchWithCUDA(_TorchOnCPU):
    """`torch` for TRL's client, which asks of the trainer's device only that it be CUDA."""

    @staticmethod
    def device(_: Any) -> Any:
        return SimpleNamespace(type="cuda", index=None)
