# ruff: noqa: E402
"""`python -m verl.trainer.main_ppo` for a few steps, with two workers on the CPU: Ray, TransferQueue, FSDP2 on gloo.

The policy is the embedded one after a short warm start, the task the generated world's, the rollouts those of
`a2tgpo_search`. Rollouts come from a stand-in for vLLM (`tests.verl.stand_in`), everything else is verl's own.
Takes minutes: `make test-verl` runs it, where verl is not installed it is skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

REASON = "verl is not installed here; `make test-verl` makes it an environment of its own"
pytest.importorskip("verl", reason=REASON)
pytest.importorskip("transfer_queue", reason=REASON)
if torch.cuda.is_available():
    pytest.skip("the stand-ins are for machines without a GPU", allow_module_level=True)

from transformers import AutoTokenizer

from a2tgpo.report.run_data import read_runs
from a2tgpo.run.verl_data import write_rows
from a2tgpo.run.verl_overrides import verl_overrides
from tests.verl.policy import save_warm_policy, small_world
from tests.verl.tag_tool import TEMPLATE

pytestmark = pytest.mark.timeout(3600)

N_WORKERS = 2
ENVIRONMENT = {
    "VERL_PLATFORM": "cpu",
    "VERL_ENGINE_DEVICE": "cuda",
    "VERL_USE_EXTERNAL_MODULES": "tests.verl.stand_in",
    "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / name) for name in ("src", ".")),
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}
ON_THE_CPU = [
    "actor_rollout_ref.rollout.name=stand_in",
    "trainer.device=cpu",
    f"+ray_kwargs.ray_init.num_gpus={N_WORKERS}",  # declared, not real
    "ray_kwargs.ray_init.num_cpus=8",
    "+ray_kwargs.ray_init.include_dashboard=false",
    "+ray_kwargs.ray_init.object_store_memory=500000000",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "reward.num_workers=1",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    "actor_rollout_ref.actor.use_torch_compile=False",
    "actor_rollout_ref.actor.fsdp_config.use_torch_compile=False",
    "data.dataloader_num_workers=0",
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a policy that searches, questions and passages."""
    folder = tmp_path_factory.mktemp("task")
    save_warm_policy(folder / "policy")
    world = small_world()
    world.write_corpus(folder / "corpus.jsonl")
    write_rows(world.questions("train", [1, 2], 32), folder / "train.parquet")
    write_rows(world.questions("eval", [1, 2], 8), folder / "val.parquet")
    return folder


def command(task: Path, output: Path, *changes: str, **recipe: Any) -> list[str]:
    """main_ppo for a recipe of 2 prompts × 4 rollouts a batch and two updates of each."""
    given = {
        "model_name_or_path": str(task / "policy"),
        "output_dir": str(output),
        "num_generations": 4,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 4,
        "max_steps": 4,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_completion_length": 384,
        "bf16": False,
        "gradient_checkpointing": False,
        "attn_implementation": "sdpa",
        "report_to": "none",
        "title_weight": 3,
        "max_prompt_tokens": 64,
        "max_searches": 2,
        "max_turn_tokens": 40,
        "passage_tokens": 48,
    }
    made = verl_overrides(given | recipe, task, n_devices=N_WORKERS)
    return [sys.executable, "-m", "verl.trainer.main_ppo", *made, *ON_THE_CPU, *changes]


def start(command: list[str], log: Path, **variables: str) -> subprocess.Popen[str]:
    """Start main_ppo, its output in `log`."""
    return subprocess.Popen(
        command,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | ENVIRONMENT | variables,
        cwd=log.parent,
    )


def logged(output: Path) -> list[dict[str, float]]:
    """Whole lines of metrics.jsonl."""
    file = output / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kill(process: subprocess.Popen[str]) -> None:
    """Kill a run with all that it started, as a machine that goes down would."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid)
        for child in [*started.children(recursive=True), started]:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.wait()


def test_killed_after_a_checkpoint_and_resumed(task: Path, tmp_path: Path) -> None:
    """Reward, gains, clipping and new weights on the rollout server in every step; after a kill the run goes on from
    its checkpoint, and the report reads it as one."""
    output, log = tmp_path / "run", tmp_path / "first.txt"
    running = start(command(task, output, max_steps=80), log)
    deadline = time.monotonic() + 1500
    tracker = output / "checkpoints" / "latest_checkpointed_iteration.txt"
    try:
        while not (tracker.exists() and len(logged(output)) >= 2):
            assert running.poll() is None, log.read_text()[-6000:]
            assert time.monotonic() < deadline, log.read_text()[-6000:]
            time.sleep(1)
    finally:
        kill(running)
    text = log.read_text()
    first = logged(output)
    done = int(tracker.read_text())
    assert done >= 1
    for row in first:
        assert -1 <= row["reward"] <= 1 and row["rollout/searches"] > 0
        assert 0 <= row["likelihood/before"] <= 1 and 0 <= row["likelihood/after"] <= 1
        assert "gain/turn_1" in row and "clip_scale/mean" in row
        assert 0 <= row["loss/clipped_high"] <= 1 and row["loss/ratio_mean"] > 0
        assert row["training/rollout_probs_diff_max"] < 1e-4, "server and actor have other weights"
    assert any(row["loss/clipped_low"] + row["loss/clipped_high"] > 0 for row in first), "nothing was ever clipped"
    norms = dict(re.findall(r"weights of step (\d+), norm ([\d.]+)", text))
    assert len(norms) >= 2 and len(set(norms.values())) == len(norms), f"weights did not change: {norms}"

    log = tmp_path / "second.txt"
    steps = done + 1
    resumed = command(task, output, f"trainer.total_training_steps={steps}", resume_from_checkpoint=True)
    running = start(resumed, log)
    try:
        code = running.wait(1500)
    finally:
        if running.poll() is None:
            kill(running)
    text = log.read_text()
    assert code == 0, text[-6000:]
    assert f"setting global step to {done}" in text
    assert [row["step"] for row in logged(output)] == list(range(1, steps + 1))
    assert re.search(rf"weights of step {done}, norm {re.escape(norms[str(done)])}", text), "other weights were resumed"
    (run,) = read_runs([output])
    assert [batch.step for batch in run.batches] == list(range(1, steps + 1))
    assert all(len(batch.rollouts) == 8 for batch in run.batches)
    assert all(rollout.update for batch in run.batches for rollout in batch.rollouts if rollout.valid)
    assert not run.notices


def test_rows_through_the_engine(task: Path, tmp_path: Path) -> None:
    """The way of engines without a cache, with a method that averages over tokens."""
    output, log = tmp_path / "run", tmp_path / "log.txt"
    changes = ("+a2tgpo.gain_method=rows", "trainer.total_training_steps=1")
    rows = command(task, output, *changes, method="igpo+tg", save_steps=9)
    assert start(rows, log).wait(1500) == 0, log.read_text()[-6000:]
    (row,) = logged(output)
    assert 0 <= row["likelihood/before"] <= 1 and "gain/turn_1" in row


def test_a_tool_of_verls_and_its_agent_loop(task: Path, tmp_path: Path) -> None:
    """`tool_agent` with a function tool: turns from its response mask, gains, credit and updates; answers are scored
    by the rollout server, behind each turn."""
    policy, output, log = tmp_path / "policy", tmp_path / "run", tmp_path / "log.txt"
    shutil.copytree(task / "policy", policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(policy)
    changes = (
        "actor_rollout_ref.rollout.agent.default_agent_loop=a2tgpo_tool_agent",
        f"actor_rollout_ref.rollout.multi_turn.function_tool_path={Path(__file__).with_name('user_tool.py')}",
        "actor_rollout_ref.rollout.multi_turn.format=tags",
        "actor_rollout_ref.rollout.multi_turn.max_assistant_turns=3",
        "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=400",
        "actor_rollout_ref.rollout.max_model_len=512",
        f"reward.custom_reward_function.path={Path(__file__).with_name('tag_tool.py')}",
        "+a2tgpo.gain_method=server",
        "trainer.total_training_steps=2",
    )
    run = command(task, output, *changes, model_name_or_path=str(policy), save_steps=9)
    assert start(run, log, A2TGPO_TEST_CORPUS=str(task / "corpus.jsonl")).wait(1500) == 0, log.read_text()[-6000:]
    rows = logged(output)
    assert [row["step"] for row in rows] == [1, 2]
    assert all("gain/turn_1" in row and row["rollout/searches"] > 0 and -1 <= row["reward"] <= 1 for row in rows)
    (found,) = read_runs([output])
    rollouts = [rollout for batch in found.batches for rollout in batch.rollouts]
    assert any("<result>" in segment.text for rollout in rollouts for segment in rollout.segments if segment.turn < 0)
    assert all(rollout.update for rollout in rollouts if rollout.valid), "what an update made of it is in the log"


def test_a_penalty_for_leaving_the_reference(task: Path, tmp_path: Path) -> None:
    """A reference policy in the workers, from which the first step's second update finds the policy gone."""
    output, log = tmp_path / "run", tmp_path / "log.txt"
    run = command(task, output, "trainer.total_training_steps=2", beta=0.05, save_steps=9)
    assert start(run, log).wait(1500) == 0, log.read_text()[-6000:]
    rows = logged(output)
    assert len(rows) == 2 and all(0 < row["kl"] < 1 for row in rows), [row["kl"] for row in rows]


def test_rollouts_on_devices_of_their_own(task: Path, tmp_path: Path) -> None:
    """verl's separate asynchronous trainer: two trainers and a server of its own, new weights after every step."""
    output, log = tmp_path / "run", tmp_path / "log.txt"
    changes = (
        "trainer.v1.trainer_mode=a2tgpo_separate_async",
        "trainer.v1.separate_async.parameter_sync_step=2",
        "actor_rollout_ref.hybrid_engine=False",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=1",
        "actor_rollout_ref.rollout.checkpoint_engine.backend=stand_in",
        "trainer.total_training_steps=2",
        f"ray_kwargs.ray_init.num_gpus={N_WORKERS + 1}",
        "ray_kwargs.ray_init.num_cpus=16",
    )
    run = start(command(task, output, *changes, save_steps=9), log, VERL_LOGGING_LEVEL="WARN")
    assert run.wait(1500) == 0, log.read_text()[-6000:]
    rows = logged(output)
    assert [row["step"] for row in rows] == [1, 2]
    assert all("gain/turn_1" in row and 0 <= row["loss/clipped_high"] <= 1 for row in rows)
    norms = dict(re.findall(r"weights of step (\d+), norm ([\d.]+)", log.read_text()))
    assert len(set(norms.values())) == len(norms) >= 2, norms
    (found,) = read_runs([output])
    assert [len(batch.rollouts) for batch in found.batches] == [8, 8]


def test_what_cannot_be_honoured_ends_the_run_at_its_start(task: Path, tmp_path: Path) -> None:
    """No hang and no other trainer in its place: the reason and the remedy are on the screen."""
    log = tmp_path / "log.txt"
    refused = command(task, tmp_path / "run", "+a2tgpo.gain_methode=rows")
    assert start(refused, log).wait(600) != 0
    assert "did you mean +a2tgpo.gain_method?" in log.read_text()
