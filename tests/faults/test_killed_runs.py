"""A run that was killed, wherever, is resumed into the run that was never killed, and keeps no record of another.

A run is killed here by leaving away what it wrote after that moment; `scripts/soak.py` kills real processes.
"""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from a2tgpo.cli import main
from a2tgpo.run.checkpoints import Rotation, checkpoints_in, fault_of, last_whole
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.resume import cut_back
from tests.run.parts import Command, write_recipe

RESUME = ("--resume_from_checkpoint", "true")
CLOCKS = ("seconds", "time", "per_second", "runtime")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run of the shipped policy: six updates, two a batch, a checkpoint after each batch.

    After the warm start some rollouts are right and some are not, so that the updates move the weights.
    """
    folder = tmp_path_factory.mktemp("begun")
    recipe = write_recipe(
        folder / "recipe.yaml",
        Path("a2tgpo:hops-tiny"),
        world_entities=40,
        n_train_questions=40,
        hops=[1],
        passage_tokens=64,
        max_turn_tokens=32,
        max_completion_length=300,
        warm_start_steps=30,
        warm_start_batch_size=16,
        warm_start_learning_rate=2e-3,
        num_generations=4,
        per_device_train_batch_size=8,
        steps_per_generation=2,
        max_steps=6,
        save_steps=2,
        learning_rate=1e-3,
    )
    assert main(["train", str(recipe)]) == 0
    moved = [load_file(folder / "run" / name / "model.safetensors") for name in ("warm_start", "model")]
    assert any(not torch.equal(moved[0][key], moved[1][key]) for key in moved[0])
    return folder


def copy_of(begun: Path, folder: Path) -> tuple[list[str], RunDirectory]:
    """A copy of the run, and the command that goes on with it."""
    shutil.copytree(begun / "run", folder / "run", symlinks=True)
    command = ["train", str(begun / "recipe.yaml"), "--output_dir", str(folder / "run"), *RESUME]
    return command, RunDirectory(folder / "run")


def forget_the_end(run: RunDirectory) -> None:
    """Take away what a run writes after its last update."""
    shutil.rmtree(run.model)
    for path in (run.summary, run.root / "summary.md", *run.root.glob("eval/after_*")):
        path.unlink()


def numbers(path: Path) -> list[dict[str, Any]]:
    """The records of a file of metrics or rollouts, without what a clock said."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in record.items() if not any(clock in k for clock in CLOCKS)} for record in records]


def assert_same_run(run: RunDirectory, other: RunDirectory) -> None:
    """Final weights, metrics, rollouts, updates and evaluations are equal to the last bit."""
    ours, theirs = (load_file(r.model / "model.safetensors") for r in (run, other))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert numbers(run.metrics) == numbers(other.metrics)
    assert sorted(p.name for p in run.rollouts.iterdir()) == sorted(p.name for p in other.rollouts.iterdir())
    for path in run.rollouts.iterdir():
        assert numbers(path) == numbers(other.rollouts / path.name), path.name
    for path in (run.root / "eval").iterdir():
        assert path.read_bytes() == (other.root / "eval" / path.name).read_bytes()


def test_killed_before_the_model_was_saved(begun: Path, tmp_path: Path) -> None:
    """The last checkpoint is there and the model is not: it is saved from the checkpoint, without an update more."""
    command, run = copy_of(begun, tmp_path)
    forget_the_end(run)
    assert main(command) == 0
    assert_same_run(run, RunDirectory(begun / "run"))


def test_killed_between_two_batches(begun: Path, tmp_path: Path) -> None:
    """Killed in the second batch: its records and its torn checkpoint go, and the run ends as the whole one did."""
    command, run = copy_of(begun, tmp_path)
    forget_the_end(run)
    shutil.rmtree(run.checkpoints / "checkpoint-6")
    (run.checkpoints / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    with run.metrics.open("ab") as file:
        file.write(b'{"step": 7, "rew')
    assert main(command) == 0
    assert_same_run(run, RunDirectory(begun / "run"))


def test_going_on_longer(begun: Path, tmp_path: Path) -> None:
    """A finished run with more `max_steps` goes on from its last checkpoint, and ends with a model of its own."""
    command, run = copy_of(begun, tmp_path)
    before = load_file(run.model / "model.safetensors")
    assert main([*command, "--max_steps", "8"]) == 0
    assert [record["step"] for record in numbers(run.metrics)] == list(range(1, 9))
    assert numbers(run.metrics)[:6] == numbers(begun / "run" / "metrics.jsonl")
    after = load_file(run.model / "model.safetensors")
    assert any(not torch.equal(before[key], after[key]) for key in before)


# --- records of what is done again -----------------------------------------------------------------------------------


def test_records_of_a_given_up_batch_are_cut_back(tmp_path: Path) -> None:
    """A checkpoint at update 3 in a batch of updates 1 to 4: the batch keeps its rollouts and its updates up to 3; what
    the killed run made later is gone, of every process, and a line that was cut off too; foreign files stay."""
    run = RunDirectory(tmp_path)
    run.rollouts.mkdir()
    run.metrics.write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 7)) + '{"step": 7, "rew', encoding="utf-8")
    for name in ("step_000000", "step_000000.rank1", "step_000004", "updates_000004", "step_000003.rank1"):
        (run.rollouts / f"{name}.jsonl").write_text('{"step": 0}\n', encoding="utf-8")
    updates = "".join(f'{{"row": 0, "step": {n}}}\n' for n in (1, 2, 3, 4))
    (run.rollouts / "updates_000000.jsonl").write_text(updates + '{"row', encoding="utf-8")
    (run.rollouts / "notes.txt").write_text("mine", encoding="utf-8")
    for step in (3, 6):
        (run.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
    cut_back(run, 3)
    assert [record["step"] for record in numbers(run.metrics)] == [1, 2, 3]
    left = sorted(path.name for path in run.rollouts.iterdir())
    assert left == ["notes.txt", "step_000000.jsonl", "step_000000.rank1.jsonl", "updates_000000.jsonl"]
    assert [record["step"] for record in numbers(run.rollouts / "updates_000000.jsonl")] == [1, 2, 3]
    assert [path.name for path in checkpoints_in(run.checkpoints)] == ["checkpoint-3"]


# --- torn checkpoints ------------------------------------------------------------------------------------------------


def half(path: Path) -> None:
    """Leave the first half of a file, as a full disk does."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


TEARS: dict[str, Callable[[Path], Any]] = {
    "no state": lambda folder: (folder / "trainer_state.json").unlink(),
    "half a state": lambda folder: half(folder / "trainer_state.json"),
    "state of another": lambda folder: (folder / "trainer_state.json").write_text('{"global_step": 2}'),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half the weights": lambda folder: half(folder / "model.safetensors"),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "half the optimizer": lambda folder: half(folder / "optimizer.pt"),
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "zeros for the schedule": lambda folder: (folder / "scheduler.pt").write_bytes(bytes(900)),
    "no random state": lambda folder: (folder / "rng_state.pth").unlink(),
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_checkpoint_is_passed_over(begun: Path, tmp_path: Path, tear: str) -> None:
    """Whatever of the newest is missing or short, the one before is taken, and it is said why."""
    _, run = copy_of(begun, tmp_path)
    TEARS[tear](run.checkpoints / "checkpoint-6")
    newest, faults = last_whole(run.checkpoints)
    assert newest == run.checkpoints / "checkpoint-4" and fault_of(newest) is None
    assert len(faults) == 1 and faults[0].startswith("checkpoint-6: ")


def test_a_named_checkpoint_that_is_torn_is_refused(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one than the one asked for is not taken silently."""
    command, run = copy_of(begun, tmp_path)
    torn = run.checkpoints / "checkpoint-4"
    half(torn / "model.safetensors")
    for named, message in ((torn, "model.safetensors ends early"), (tmp_path / "checkpoint-9", "no such checkpoint")):
        assert main([*command[:-1], str(named)]) == 2
        assert message in capsys.readouterr().err


def test_rotation_goes_by_step(tmp_path: Path) -> None:
    """Of three checkpoints two are kept, the newest by number, though by the clock the oldest is the newest."""
    for step in (10, 9, 8):
        (tmp_path / f"checkpoint-{step}").mkdir()
        time.sleep(0.01)
    state = type("State", (), {"is_world_process_zero": True, "best_model_checkpoint": None})
    Rotation(tmp_path, 2).on_save(None, state, None)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["checkpoint-9", "checkpoint-10"]
    Rotation(tmp_path, None).on_save(None, state, None)
    assert len(checkpoints_in(tmp_path)) == 2


# --- SIGTERM ---------------------------------------------------------------------------------------------------------


def test_sigterm_keeps_a_checkpoint_at_the_end_of_the_batch(begun: Path, tmp_path: Path) -> None:
    """What Slurm and Docker send: exit 143, a checkpoint between two batches, the line that goes on; the resumed run is
    the one that was never stopped."""
    command, run = copy_of(begun, tmp_path)
    forget_the_end(run)
    shutil.rmtree(run.checkpoints)
    run.metrics.unlink()
    process = Command.start(tmp_path / "said", *command)
    while not run.metrics.exists():
        assert process.process.poll() is None, process.errors
        time.sleep(0.01)
    process.process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    (step,) = [int(path.name.split("-")[1]) for path in checkpoints_in(run.checkpoints)][-1:]
    assert step in (2, 4, 6) and not run.finished
    assert f"continue with: a2tgpo {' '.join(command)}" in process.errors and "Traceback" not in process.errors
    assert main(command) == 0
    assert_same_run(run, RunDirectory(begun / "run"))
