"""Agree with the other processes of a run: what the main one found, how much all have, who says what went wrong.

A launcher (torchrun, `accelerate launch`, mpirun) starts the same command several times and numbers the processes in
environment variables; accelerate joins them when a recipe's training arguments are made.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from a2tgpo.errors import RecipeError

T = TypeVar("T")

SAID_ELSEWHERE = "another process says why"
"""A note on an error of the main process, as the others raise it."""

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL_RANKS = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many processes the launcher says it started, 1 without a launcher."""
    return _first(environment, _SIZES, 1)


def is_main(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether this is the process that writes and prints for all; known before they are joined."""
    return _first(environment, _RANKS, 0) == 0


def check_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Notice a launcher that was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does (accelerate 1.15): it names an address for them to meet at, and
    numbers none.

    Raises:
        RecipeError: it did.
    """
    if "MASTER_ADDR" in environment and "ACCELERATE_MIXED_PRECISION" in environment and launched(environment) == 1:
        if any(name in environment for name in _SIZES):
            return
        raise RecipeError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu or without "
            "GPUs: use torchrun --nproc_per_node N -m a2tgpo train RECIPE (on the CPU with --use_cpu true), or "
            "accelerate launch --multi_gpu"
        )


def check_joined() -> None:
    """Refuse to train once per process, when what the launcher started did not find together.

    Raises:
        RecipeError: this process knows of fewer than the launcher started.
    """
    if size() != launched():
        raise RecipeError(
            f"the launcher started {launched()} processes and they have not found each other, as on a machine without "
            "GPUs: give --use_cpu true there, or start one process"
        )


def rank() -> int:
    """Number this process, from 0."""
    return _distributed().get_rank() if size() > 1 else 0


def size() -> int:
    """Count the processes that have joined."""
    distributed = _distributed()
    joined = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return int(distributed.get_world_size()) if joined else 1


def on_main(action: Callable[[], T]) -> T:
    """Run `action` in the main process alone, and return its result, or raise its error, in all; a collective."""
    if size() == 1:
        return action()
    send = _distributed().broadcast_object_list
    result: list[Any] = [None, None]
    if rank() == 0:
        try:
            result[0] = action()
        except Exception as error:
            send([None, _portable(error)], src=0)
            raise
    send(result, src=0)
    if (failure := result[1]) is not None:
        failure.add_note(SAID_ELSEWHERE)
        raise failure
    return result[0]


def gather(items: list[T]) -> list[T]:
    """Return the items of all processes, those of the first first; a collective."""
    if size() == 1:
        return items
    found: list[list[T]] = [[]] * size()
    _distributed().all_gather_object(found, items)
    return [item for of_process in found for item in of_process]


def wait() -> None:
    """Return when all processes have come here."""
    if size() > 1:
        _distributed().barrier()


def leave() -> None:
    """Part from the other processes at the end of a run."""
    if size() > 1:
        _distributed().destroy_process_group()


def says(text: str) -> bool:
    """Tell whether `text` is left to this process to say: it is the first that has it to say.

    No collective: the other processes may be anywhere, or gone.
    """
    if launched() == 1:
        return True
    if size() == 1:
        return _first(os.environ, _LOCAL_RANKS, 0) == 0  # all have read the same command
    from torch.distributed import distributed_c10d

    try:
        store = distributed_c10d._get_default_store()
        return bool(store.add(f"a2tgpo/{hashlib.sha256(text.encode()).hexdigest()}", 1) == 1)
    except RuntimeError:  # whoever keeps the store is gone
        return True


def _first(environment: Mapping[str, str], names: tuple[str, ...], default: int) -> int:
    return next((int(environment[name]) for name in names if environment.get(name, "").isdigit()), default)


def _distributed() -> Any:
    """Return `torch.distributed`, None while nobody has imported torch."""
    return sys.modules.get("torch.distributed")


def _portable(error: Exception) -> Exception:
    """Return the error as it can be sent to another process."""
    import pickle

    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
