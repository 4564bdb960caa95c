"""Tell whole checkpoints from torn ones, and keep the newest by step."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from a2tgpo import processes
from a2tgpo.files import UNFINISHED

_STATE = "trainer_state.json"
"""The file of a checkpoint that the Trainer writes last."""

_OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
"""Files that hold the optimizer; FSDP writes the second."""


def step_of(checkpoint: Path) -> int:
    """Return the number of updates after which `checkpoint-N` was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder` by step, whole or not; the order of names or of clocks says nothing."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=step_of)


def last_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the newest whole checkpoint in `folder`, or None, and what is wrong with each that is newer."""
    faults: list[str] = []
    for checkpoint in reversed(checkpoints_in(folder)):
        if (fault := fault_of(checkpoint)) is None:
            return checkpoint, faults
        faults.append(f"{checkpoint.name}: {fault}")
    return None, faults


def fault_of(checkpoint: Path) -> str | None:
    """Say what a kill, a full disk or a bad copy left of a checkpoint; None where it is whole.

    Lengths are checked and not content: reading gigabytes of optimizer state for it would cost minutes.
    """
    try:
        steps = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_STATE} is missing or broken"
    if steps != step_of(checkpoint):
        return f"{_STATE} is of update {steps}"
    weights = [
        path for path in checkpoint.iterdir() if path.suffix in (".safetensors", ".bin") and "model" in path.name
    ]
    sharded = any(path.is_dir() for path in checkpoint.iterdir())  # FSDP and DeepSpeed save folders
    if not weights and not sharded:
        return "there are no weights"
    for path in checkpoint.iterdir():
        if path.suffix == ".safetensors" and not _is_whole_safetensors(path):
            return f"{path.name} ends early"
        if path.suffix in (".pt", ".pth") and not _is_zip(path):
            return f"{path.name} ends early"
    return _missing_state(checkpoint, sharded)


def _missing_state(checkpoint: Path, sharded: bool) -> str | None:
    """Name what is missing of the state beside the weights: there is all of it or (save_only_model) none."""
    optimizer = next((name for name in _OPTIMIZERS if (checkpoint / name).exists()), _OPTIMIZERS[0])
    # Each process keeps the state of its own random numbers.
    ranks = range(processes.size())
    random = [f"rng_state_{rank}.pth" for rank in ranks] if len(ranks) > 1 else ["rng_state.pth"]
    wanted = random if sharded else [optimizer, "scheduler.pt", *random]
    missing = [name for name in wanted if not (checkpoint / name).exists()]
    return None if len(missing) in (0, len(wanted)) else f"{', '.join(sorted(missing))} is missing"


def _is_whole_safetensors(path: Path) -> bool:
    """Compare the length of the file with what its header says."""
    with path.open("rb") as file:
        n_header = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(n_header)) if n_header < path.stat().st_size else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        return False
    end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    return path.stat().st_size == 8 + n_header + end


def _is_zip(path: Path) -> bool:
    """Find the directory that a file of `torch.save` ends in."""
    try:
        with zipfile.ZipFile(path) as archive:
            return bool(archive.namelist())
    except zipfile.BadZipFile:
        return False


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint so that a kill on the way leaves none that looks whole."""
    doomed = checkpoint.with_name(UNFINISHED + checkpoint.name)
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


class Rotation(TrainerCallback):
    """Keep the last `limit` checkpoints by step, all where it is None.

    The Trainer's own rotation goes by the clock of the file system, where a copy or a restored backup is the newest.
    """

    def __init__(self, folder: Path, limit: int | None) -> None:
        self.folder, self.limit = folder, limit

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        processes.wait()  # every process writes a part
        if self.limit is None or self.limit < 1 or not state.is_world_process_zero:
            return
        for checkpoint in checkpoints_in(self.folder)[: -self.limit]:
            if str(checkpoint) != state.best_model_checkpoint:
                remove_checkpoint(checkpoint)
