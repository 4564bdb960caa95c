"""Check the arguments of every public function, and leave half precision.

Shapes and dtypes are known to the host and always raise. Values live on the device: reading them would stall
a GPU once per call, so on CUDA a wrong value trips an asynchronous device assertion with the same rule, which
ends the process at its next synchronisation. On other devices it raises. (A meta tensor has no values: it
takes CUDA's path, which is how a machine without a GPU can prove that nothing here reads one.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


def check_shapes(**arguments: tuple[Tensor, str]) -> None:
    """Check tensors against specifications such as `gain=(gain, "float B T")`.

    A specification is a kind (`bool`, `long`, or `float`, which admits every number) and the dimensions. The
    first argument to mention a letter sets its size; `T+1` is one more than `T`.

    Raises:
        ValueError: a wrong kind, a wrong shape, or a dimension of size 0.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, specification) in arguments.items():
        kind, *dimensions = specification.split()
        _check_kind(name, tensor, kind)
        shape, layout = tuple(tensor.shape), f"[{', '.join(dimensions)}]"
        if len(shape) != len(dimensions):
            raise ValueError(f"{name} has shape {shape}; pass a tensor of shape {layout}")
        if 0 in shape:
            raise ValueError(f"{name} has shape {shape}; pad it so that no dimension of {layout} is 0")
        expected = []
        for dimension, size in zip(dimensions, shape, strict=True):
            letter, _, extra = dimension.partition("+")
            expected.append(sizes.setdefault(letter, size - int(extra or 0)) + int(extra or 0))
        if shape != tuple(expected):
            raise ValueError(
                f"{name} has shape {shape}; pad or slice it to {layout} = {tuple(expected)}, "
                f"the sizes set by {next(iter(arguments))}"
            )


def _check_kind(name: str, tensor: Tensor, kind: str) -> None:
    dtype = {"bool": torch.bool, "long": torch.long}.get(kind, tensor.dtype)
    if tensor.dtype != dtype:
        raise ValueError(f"{name} has dtype {tensor.dtype}; pass {dtype}, for example {name}.{kind}()")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(map(repr, choices))}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `low` ≤ `value` ≤ `high`."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; pass a number between {low} and {high}")


def check_weight(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a finite number of at least 0."""
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} is {value}; pass a finite number of at least 0")


def check_values(name: str, tensor: Tensor, holds: Bool[Tensor, "*any"], rule: str) -> None:
    """Check that every element of `tensor` satisfies a rule, without waiting for a GPU.

    Args:
        name: the argument as the user knows it.
        tensor: its values.
        holds: where the rule is satisfied; the shape of `tensor`.
        rule: what must hold and what to do about it.

    Raises:
        ValueError: naming the first offending element; on CUDA a device assertion instead.
    """
    satisfied = holds.all()
    if satisfied.is_cuda or satisfied.is_meta:
        torch._assert_async(satisfied, f"{name}: {rule}")
    elif not satisfied:
        position = holds.logical_not().nonzero()[0].tolist()
        raise ValueError(f"{name}{position} is {tensor[tuple(position)].item()}; {rule}")


def full_precision(tensor: Tensor) -> Float[Tensor, "*any"]:
    """Return the tensor in float32, whatever it came in; float64 stays, for checks that need more digits."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
