"""The smallest run there is: a random policy with the generated world's tokenizer, two questions a step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from a2tgpo.data.tokenizer import build_tokenizer
from tests.integrations.parts import tiny_llama


def save_policy(folder: Path, tokenizer: Any = None) -> Path:
    """A random two-layer Llama as a model folder, with `tokenizer`, else with that of the generated world."""
    tokenizer = tokenizer or build_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def distinct_tokens(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward that differs between the rollouts of the poorest policy."""
    return [float(len(set(ids))) for ids in completion_ids]


SMALL: dict[str, Any] = dict(
    n_train_questions=8,
    n_eval_questions=6,
    num_generations=2,
    per_device_train_batch_size=4,
    gradient_accumulation_steps=1,
    max_steps=2,
    lr_scheduler_type="constant",
    gradient_checkpointing=False,
    use_cpu=True,
    bf16=False,
    logging_steps=1,
    save_steps=1,
    report_to="none",
)
"""Two updates on a CPU, two questions in each."""


def write_recipe(path: Path, policy: Path | str, **changes: Any) -> Path:
    """A recipe of 2 warm-start steps and 2 updates on the generated world, with `changes`."""
    recipe = SMALL | dict(
        model_name_or_path=str(policy),
        output_dir=str(path.parent / "run"),
        world_entities=24,
        hops=[1, 2],
        max_prompt_tokens=64,
        max_turn_tokens=12,
        max_completion_length=160,
        passage_tokens=32,
        max_searches=2,
        warm_start_steps=2,
        warm_start_batch_size=4,
        learning_rate="1e-4",
    )
    path.write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    return path


@dataclass
class Command:
    """A running `a2tgpo`, in a process of its own on one thread, with what it says in two files."""

    process: subprocess.Popen[bytes]
    folder: Path

    @classmethod
    def start(
        cls, folder: Path, *arguments: str | Path, program: Sequence[str | Path] = (sys.executable, "-m", "a2tgpo.cli")
    ) -> Command:
        """`a2tgpo ARGUMENTS`, or another `program` before them, without a network, its output in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        with (folder / "out").open("wb") as output, (folder / "err").open("wb") as errors:
            command = [*map(str, program), *map(str, arguments)]
            return cls(subprocess.Popen(command, stdout=output, stderr=errors, env=environment), folder)

    @property
    def output(self) -> str:
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def errors(self) -> str:
        return (self.folder / "err").read_text(encoding="utf-8")

    def wait(self) -> int:
        """Exit status, once it has one."""
        return self.process.wait(timeout=300)

    def interrupt_when(self, condition: Callable[[], bool], signum: int = signal.SIGINT) -> int:
        """Send Ctrl-C, or another signal, as soon as `condition` holds; the exit status."""
        deadline = time.monotonic() + 300
        while not condition():
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < deadline, self.errors
            time.sleep(0.01)
        self.process.send_signal(signum)
        return self.wait()
