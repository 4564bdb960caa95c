"""`a2tgpo train` in two real processes (gloo): what it learns and leaves, how it stops and goes on, what it refuses.

Each launch takes a while to import what it needs, so that a few runs serve all tests.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from a2tgpo import A2TGPOConfig, A2TGPOTrainer
from a2tgpo.cli import main
from a2tgpo.evaluate.outcome import read_outcomes
from a2tgpo.pipeline.rollout_log import RolloutRecord
from a2tgpo.processes import check_launcher
from a2tgpo.run.directory import RunDirectory
from a2tgpo.run.recipe_file import find_launcher, load_recipe
from a2tgpo.run.task import open_task
from tests.integrations.parts import record_credit
from tests.run.parts import Command, write_recipe

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "a2tgpo"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--num_processes", "2"]

SETTINGS: dict[str, Any] = dict(
    # One prompt a batch, whose rollouts lie half on each process; plain steps, so that a gradient is seen as it is.
    num_generations=8,
    per_device_train_batch_size=4,
    optim="sgd",
    learning_rate="0.2",
    max_steps=3,
    # Room and practice enough to search, and rewards that differ.
    max_turn_tokens=48,
    max_completion_length=384,
    warm_start_steps=40,
    warm_start_batch_size=16,
    warm_start_learning_rate="2e-3",
    reward="tests.run.parts:distinct_tokens",
    # The gains of a policy this poor spread by 1e-6, and their normalised values would be rounding.
    std_floor=0.01,
)


POLICY = "a2tgpo:hops-tiny"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    command = Command.start(folder, "train", write_recipe(folder / "recipe.yaml", POLICY, **SETTINGS), program=TORCHRUN)
    assert command.wait() == 0, command.errors
    return folder / "run"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under FSDP2 by the package's own configuration, whose batches feed two updates."""
    folder = tmp_path_factory.mktemp("sharded")
    recipe = write_recipe(folder / "recipe.yaml", POLICY, **SETTINGS | {"num_iterations": 2, "max_steps": 2})
    launch = [*ACCELERATE, "--config_file", find_launcher("fsdp2"), "-m", "a2tgpo"]
    command = Command.start(folder, "train", recipe, "--import", "tests.run.fsdp_on_cpu", program=launch)
    assert command.wait() == 0, command.errors
    return folder / "run"


@pytest.fixture(scope="module")
def zero2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under DeepSpeed ZeRO-2 by the package's own configuration."""
    pytest.importorskip("deepspeed", reason="DeepSpeed is not installed; it is built on installation")
    folder = tmp_path_factory.mktemp("zero2")
    recipe = write_recipe(folder / "recipe.yaml", POLICY, **SETTINGS | {"max_steps": 2})
    launch = [*ACCELERATE, "--config_file", find_launcher("zero2"), "-m", "a2tgpo"]
    command = Command.start(folder, "train", recipe, "--import", "tests.run.deepspeed_on_cpu", program=launch)
    assert command.wait() == 0, command.errors
    return folder / "run"


def rollouts(run: Path, step: int = 0) -> list[RolloutRecord]:
    """The rollouts of a batch in the order of the processes."""
    files = [run / "rollouts" / f"step_{step:06d}.rank{rank}.jsonl" for rank in (0, 1)]
    return [RolloutRecord.from_line(line) for file in files for line in file.read_text("utf-8").splitlines()]


def replay(run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Credit and weights of the first update, made in this process from the rollouts that the run logged."""
    logged = rollouts(run)
    config = load_recipe(str(run / "config.yaml"), ["--processes", "1", "--per_device_train_batch_size", "8"])
    tokenizer = AutoTokenizer.from_pretrained(run / "warm_start")
    agent = open_task(config, RunDirectory(folder)).agent(tokenizer)
    flat = [[(id, s.turn >= 0) for s in record.segments for id in s.ids] for record in logged]

    def rollout_func(prompts: list[Any], trainer: Any) -> dict[str, Any]:
        return {
            "prompt_ids": [agent.encode_prompt(prompt) for prompt in prompts],
            "completion_ids": [[id for id, _ in row] for row in flat],
            "env_mask": [[int(written) for _, written in row] for row in flat],
            "logprobs": None,
        }

    args: A2TGPOConfig = config.training
    args.output_dir, args.rollouts_dir, args.max_steps, args.save_strategy = str(folder / "out"), "", 1, "no"
    row = {"prompt": logged[0].prompt, "answer": logged[0].answer, "earned": logged[0].reward}
    trainer = A2TGPOTrainer(
        AutoModelForCausalLM.from_pretrained(run / "warm_start"),
        lambda completions, **_: [record.reward for record in logged],
        args,
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
        rollout_func=rollout_func,
    )
    recorded = record_credit(monkeypatch)
    trainer.train()
    return recorded[0].credit, trainer.model.state_dict()


@pytest.mark.parametrize("kind", ["whole", "sharded", "zero2"])
def test_credit_and_update_are_those_of_one_process(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under DDP, FSDP2 and ZeRO-2 alike the rollouts of a prompt that both processes share get the credit that one
    process gives them together, and the first update moves the same weights by the same amounts."""
    run = request.getfixturevalue(kind)
    credit, weights = replay(run, tmp_path, monkeypatch)
    logged = rollouts(run)
    assert len(logged) == 8 and len({str(record.prompt) for record in logged}) == 1
    for row, record in enumerate(logged):
        n_turns, n_boundaries = len(record.advantage), len(record.likelihood or ())
        assert record.advantage == pytest.approx(credit.advantage[row, :n_turns].tolist(), abs=1e-3)
        assert record.likelihood == pytest.approx(credit.likelihood[row, :n_boundaries].tolist(), abs=1e-6)
    before = load_file(run / "warm_start" / "model.safetensors")
    after = load_file(run / "checkpoints" / "checkpoint-1" / "model.safetensors")
    moved = max((after[name] - before[name]).abs().max().item() for name in before)
    assert moved > 1e-3 and any(len(record.gain or ()) for record in logged)
    for name in before:
        found, expected = after[name] - before[name], weights[name] - before[name]
        torch.testing.assert_close(found, expected, atol=1e-3 * moved, rtol=1e-2)


def test_a_run_of_two_leaves_what_a_run_of_one_does(whole: Path) -> None:
    """One line a step, every held-out question once and in order, one table; both processes' rollouts; and the number
    of processes in the recipe that it leaves."""
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert steps == [1, 2, 3]
    config = load_recipe(str(whole / "config.yaml"))
    asked = [question["id"] for question in open_task(config, RunDirectory(whole.parent)).eval_questions]
    for name in ("before_greedy", "before_sampled", "after_greedy", "after_sampled"):
        assert [outcome.id for outcome in read_outcomes(whole / "eval" / f"{name}.jsonl")] == asked
    said = (whole.parent / "out").read_text("utf-8")
    assert said.count("exact match with 95 % interval") == 1 == said.count("everything is in")
    assert config.recipe.processes == 2
    assert AutoModelForCausalLM.from_pretrained(whole / "model").num_parameters()


def test_the_warm_start_is_that_of_one_process(whole: Path, tmp_path: Path) -> None:
    """Processes share the recipe's batch of demonstrations, so that the policy the updates begin with is the same."""
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY, **SETTINGS | {"max_steps": 0, "num_generations": 4})
    assert main(["train", str(recipe)]) == 0
    alone, shared = (load_file(run / "warm_start" / "model.safetensors") for run in (tmp_path / "run", whole))
    for name, weight in alone.items():
        torch.testing.assert_close(shared[name], weight, atol=1e-5, rtol=1e-4)


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(whole: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher: all processes stop after the same update with one whole checkpoint, and the line that is
    told continues to the weights of the run that was not stopped, to the last bit."""
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY, **SETTINGS)
    run = tmp_path / "run"
    command = Command.start(tmp_path, "train", recipe, program=TORCHRUN)
    assert command.interrupt_when((run / "metrics.jsonl").exists, signal.SIGTERM) != 0
    assert command.errors.count("interrupted: checkpoint kept in") == 1
    assert "continue with: LAUNCHER -m a2tgpo train" in command.errors
    assert not (run / "model").exists()
    again = Command.start(tmp_path, "train", recipe, "--resume_from_checkpoint", "true", program=TORCHRUN)
    assert again.wait() == 0, again.errors
    expected, found = (load_file(each / "model" / "model.safetensors") for each in (whole, run))
    assert all(torch.equal(weight, found[name]) for name, weight in expected.items())


def test_a_run_in_shards_is_stopped_and_goes_on(tmp_path: Path) -> None:
    """The same under FSDP2, whose weights and optimizer are in shards: SIGTERM, one whole checkpoint behind the batch
    that was under way, and the weights of a run that was not stopped, to the last bit."""
    # An optimizer with state: torch cannot load one without into shards.
    settings = SETTINGS | {"optim": "adamw_torch", "learning_rate": "1e-3", "num_iterations": 2, "max_steps": 4}
    settings |= {"warm_start_steps": 8, "n_eval_questions": 2, "save_steps": 2}
    launch = [*ACCELERATE, "--config_file", find_launcher("fsdp2"), "-m", "a2tgpo"]
    plug_in = ["--import", "tests.run.fsdp_on_cpu"]
    (tmp_path / "undisturbed").mkdir()
    recipe = write_recipe(tmp_path / "undisturbed" / "recipe.yaml", POLICY, **settings)
    undisturbed = Command.start(recipe.parent, "train", recipe, *plug_in, program=launch)
    assert undisturbed.wait() == 0, undisturbed.errors
    recipe, run = write_recipe(tmp_path / "recipe.yaml", POLICY, **settings), tmp_path / "run"
    stopped = Command.start(tmp_path, "train", recipe, *plug_in, program=launch)
    assert stopped.interrupt_when((run / "metrics.jsonl").exists, signal.SIGTERM) != 0
    assert stopped.errors.count("interrupted: checkpoint kept in") == 1, stopped.errors
    assert (run / "checkpoints" / "checkpoint-2").is_dir() and not (run / "model").exists()
    arguments = ["train", recipe, *plug_in, "--resume_from_checkpoint", "true"]
    again = Command.start(tmp_path, *arguments, program=launch)
    assert again.wait() == 0, again.errors
    of = [load_file(folder / "run" / "model" / "model.safetensors") for folder in (tmp_path / "undisturbed", tmp_path)]
    assert all(torch.equal(weight, of[1][name]) for name, weight in of[0].items())


@pytest.mark.parametrize("method", ["dapo", "tree-grpo", "aepo"])
def test_sampling_of_a_methods_own_is_that_of_the_command_line(method: str, tmp_path: Path) -> None:
    """Dynamic sampling, trees and branches in two processes: every prompt's rollouts learn together, turns that they
    share are carried by one of them, and batches are sampled until rewards differ."""
    whole_groups = SETTINGS | {"per_device_train_batch_size": 8, "max_steps": 2, "warm_start_steps": 10}
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY, **whole_groups | {"method": method, "n_eval_questions": 2})
    unread = [line for line in recipe.read_text("utf-8").splitlines() if not line.startswith("std_floor")]
    recipe.write_text("\n".join(unread), encoding="utf-8")
    command = Command.start(tmp_path, "train", recipe, program=TORCHRUN)
    assert command.wait() == 0, command.errors
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    for step in (0, 1):
        logged = rollouts(tmp_path / "run", step)
        groups: dict[int, list[RolloutRecord]] = {}
        for record in logged:
            groups.setdefault(record.group, []).append(record)
        assert [len(group) for group in groups.values()] == [8, 8]
        for group in groups.values():
            assert len({str(record.prompt) for record in group}) == 1
            if method == "dapo":
                assert len({record.reward for record in group}) > 1
                assert sum(record.advantage[0] for record in group) == pytest.approx(0, abs=1e-4)
        shared = [record.owned is not None and not all(record.owned) for record in logged]
        assert any(shared) == (method != "dapo")
    if method == "dapo":
        assert all(line["rollout/sampled_batches"] >= 1 for line in lines)


def test_adapters_are_trained_in_shards(tmp_path: Path) -> None:
    """LoRA under FSDP2: rollouts come from the language model inside the adapters, whose merged weights are saved."""
    settings = SETTINGS | {"max_steps": 1, "warm_start_steps": 2, "use_peft": True, "lora_target_modules": "all-linear"}
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY, **settings, n_eval_questions=2)
    launch = [*ACCELERATE, "--config_file", find_launcher("fsdp2"), "-m", "a2tgpo"]
    command = Command.start(tmp_path, "train", recipe, "--import", "tests.run.fsdp_on_cpu", program=launch)
    assert command.wait() == 0, command.errors
    before, after = (load_file(tmp_path / "run" / name / "model.safetensors") for name in ("warm_start", "model"))
    assert any(not torch.equal(weight, before[name]) for name, weight in after.items())


def test_another_number_of_processes_does_not_go_on_with_it(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process cannot continue what two began: its batches would be half as large."""
    recipe = whole.parent / "recipe.yaml"
    assert main(["train", str(recipe), "--resume_from_checkpoint", "true", "--processes", "2"]) == 2
    assert "processes=2: 1 started; launch 2" in capsys.readouterr().err
    assert main(["train", str(recipe), "--resume_from_checkpoint", "true", "--num_generations", "4"]) == 2
    assert "holds a run of 2 processes, and 1 started" in capsys.readouterr().err


def test_what_cannot_be_honoured_is_said_once(tmp_path: Path) -> None:
    """FSDP where there are no GPUs would be no FSDP: both processes end at once, and one says why."""
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY, **SETTINGS)
    launch = [*ACCELERATE, "--config_file", find_launcher("fsdp2"), "-m", "a2tgpo"]
    command = Command.start(tmp_path, "train", recipe, program=launch)
    assert command.wait() != 0
    assert command.errors.count("error: ACCELERATE_USE_FSDP=true: the launcher asked for FSDP") == 1
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_launcher_that_started_one_of_several_is_noticed(tmp_path: Path) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process that knows of no other."""
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY)
    command = Command.start(tmp_path, "train", recipe, program=[*ACCELERATE, "--cpu", "-m", "a2tgpo"])
    assert command.wait() != 0
    assert "was asked for several processes and started one" in command.errors and "torchrun" in command.errors


@pytest.mark.parametrize(
    ("environment", "noticed"),
    [
        ({}, False),
        ({"MASTER_ADDR": "127.0.0.1"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}, True),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "OMPI_COMM_WORLD_SIZE": "2"}, False),
        ({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "1"}, False),
    ],
)
def test_what_a_launcher_leaves_in_the_environment(environment: dict[str, str], noticed: bool) -> None:
    """An address to meet at, from accelerate, and no number of processes: only that is taken for a mistake."""
    if not noticed:
        check_launcher(environment)
        return
    with pytest.raises(ValueError, match="started one"):
        check_launcher(environment)


@pytest.mark.parametrize("processes", [0, 3])
def test_a_recipe_for_another_number_of_processes(
    processes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe may say how many processes its batches are for; another number is refused with what to do."""
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY, processes=processes)
    assert main(["train", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert f"processes={processes}: " in error and ("1 started; launch 3" in error) == (processes == 3)
    assert yaml.safe_load(recipe.read_text("utf-8"))["processes"] == processes


def test_zero_3_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a model is opened, which DeepSpeed would spread over the processes at once."""
    recipe = write_recipe(tmp_path / "recipe.yaml", POLICY)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert main(["train", str(recipe)]) == 2
    assert "error: DeepSpeed ZeRO-3: an evaluation would ask" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.yaml").exists()
