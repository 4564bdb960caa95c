"""Share what all benchmarks do: interleaved timing, medians with spread, one table, one JSON file.

A benchmark checks that its variants agree, then calls `measure` once for every size, collects a `Case` from each, and
hands the list to `print_cases` and, where asked, `write_json`.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from a2tgpo.files import new_file

SMOLLM2: dict[str, Any] = dict(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
)
"""The shape of SmolLM2-135M, a Llama."""

Variant = Callable[[], Mapping[str, float] | None]
"""One run of what is measured. Returns None, or the seconds of the parts that it timed itself, by name."""


@dataclass(frozen=True)
class Case:
    """Hold one size of a benchmark.

    Attributes:
        size: what the reader needs to know of the shapes, such as "8 rollouts of 2,200 tokens".
        seconds: for each variant the seconds of its repeats, all of the same number and in the order they ran.
        reference: the variant the others are divided by.
        floors: bounds no implementation can beat, in seconds or as a share, already in words.
        facts: anything else worth keeping in the JSON file: token counts, errors of the equality check.
    """

    size: str
    seconds: Mapping[str, Sequence[float]]
    reference: str
    floors: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def ratios(self, name: str) -> list[float]:
        """Divide the seconds of `name` by those of the reference, repeat by repeat."""
        return [mine / base for mine, base in zip(self.seconds[name], self.seconds[self.reference], strict=True)]


def measure(
    variants: Mapping[str, Variant], device: torch.device, *, repeats: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """Run every variant `warmup` + `repeats` times, in turns, so that a slow minute of the machine hits all alike.

    Every other turn goes the other way round: what one leaves behind in memory and caches meets the next.

    Gives the seconds of each repeat under the variant's name, or under the names of the parts that it returns. The
    device has finished before the clock starts and before it stops.
    """
    seconds: dict[str, list[float]] = {}
    for repeat in range(warmup + repeats):
        for name, run in list(variants.items())[:: 1 if repeat % 2 else -1]:
            synchronize(device)
            start = time.perf_counter()
            parts = run()
            synchronize(device)
            parts = {name: time.perf_counter() - start} if parts is None else parts
            if repeat >= warmup:
                for part, taken in parts.items():
                    seconds.setdefault(part, []).append(taken)
    return seconds


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device) -> float:
    """Return the bytes per second that a plain copy of 256 MB reads and writes here."""
    block = torch.ones(1 << 26, device=device)
    seconds = []
    for _ in range(4):
        synchronize(device)
        start = time.perf_counter()
        block.clone()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * 4 * block.numel() / min(seconds)


def reading(model: Any, lengths: Sequence[int], n_written: int) -> tuple[float, float]:
    """Count the fewest bytes and operations of one forward over rows of `lengths` tokens.

    Weights are read once; two operations for each weight (embeddings apart) and token, for the head's only at the
    `n_written` tokens of the policy; four for each token, key it sees and channel.
    """
    config = model.config
    weights = sum(parameter.numel() for parameter in model.base_model.parameters())
    weights -= model.get_input_embeddings().weight.numel()
    head = config.hidden_size * config.vocab_size
    keys = sum(length * (length + 1) / 2 for length in lengths)
    channels = config.num_hidden_layers * config.hidden_size
    n_flops = 2 * weights * sum(lengths) + 2 * head * n_written + 4 * channels * keys
    return (weights + head) * model.dtype.itemsize, n_flops


def floors(n_bytes: float, n_flops: float, device: torch.device) -> dict[str, str]:
    """Put the fewest bytes and operations in words, and how long the bytes take at the speed of a plain copy here."""
    speed = bandwidth(device)
    seconds = f"{n_bytes / speed * 1e3:.3f} ms at {speed / 1e9:.1f} GB/s of a copy"
    return {"fewest bytes": f"{n_bytes / 1e6:.2f} MB, {seconds}", "fewest operations": f"{n_flops / 1e6:.2f} MFLOP"}


def print_cases(title: str, cases: Sequence[Case]) -> None:
    """Print medians with their range, and the median ratio to the reference with its range, size by size."""
    console = Console(width=None if sys.stdout.isatty() else 132)
    table = Table("variant", "median s", "min to max", "ratio", "min to max", title=title)
    for case in cases:
        table.add_row(case.size, style="bold")
        for name, taken in case.seconds.items():
            ratios = case.ratios(name)
            cells = [f"{statistics.median(taken):.4f}", f"{min(taken):.4f} to {max(taken):.4f}"]
            ratio = [f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f} to {max(ratios):.3f}"]
            table.add_row(name, *cells, *(ratio if name != case.reference else ["reference", ""]))
        for name, bound in case.floors.items():
            table.add_row(name, bound, style="dim")
        table.add_section()
    console.print(table)


def write_json(path: Path, title: str, cases: Sequence[Case]) -> None:
    """Write every repeat, not just the medians, with the hardware, versions, date and command that made them."""
    record = {"title": title, "environment": environment(), "cases": [vars(case) for case in cases]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Name hardware, versions, threads, date (UTC) and command line of this process."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, of which torch uses {torch.get_num_threads()}",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl", "a2tgpo")},
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
