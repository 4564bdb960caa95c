"""The run directory of a verl run is one that `a2tgpo report` opens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.verl.credit_settings import TurnCreditSettings
from a2tgpo.integrations.verl.queue_rows import RowOrder, as_rollouts
from a2tgpo.integrations.verl.run_log import RunLog, batch_metrics
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import BatchCredit, SingleProcess, assign_credit, collect_signals
from a2tgpo.report.run_data import read_runs


def log_step(run: RunLog, step: int, *, done: int = 0, resumes: bool = True) -> None:
    """Log a batch of two rollouts and its metrics, as the trainer does in `step`."""
    log = run.begin(TurnCreditSettings(turn_gamma=0.9).as_recipe(), step=done, resumes=resumes)
    columns = {
        "prompts": [torch.tensor([4, 5])] * 2,
        "responses": [torch.tensor([6, 7, 8]), torch.tensor([6])],
        "response_mask": [torch.tensor([1, 0, 1]), torch.tensor([1])],
        "raw_prompt": [[{"role": "user", "content": "Who?"}]] * 2,
    }
    batch = as_rollouts(
        columns, RowOrder([0, 1], 2, 2), answers=[["x"]] * 2, pad_id=0, end_ids=(), cut_last_result=False
    )
    likelihood = torch.tensor([[0.1, 0.6, 0.0], [0.1, 0.0, 0.0]])
    signals = collect_signals(batch, METHODS["a2tgpo"], build_tokenizer(), likelihood=likelihood)
    credit = assign_credit(batch, signals, torch.tensor([1.0, 0.0]), METHODS["a2tgpo"], SingleProcess())
    lines = log.write(batch, credit, METHODS["a2tgpo"], build_tokenizer(), step - 1)
    turn_ids = torch.tensor([[0, -1, 1], [0, -1, -1]])
    for epoch in (1, 2):  # of two epochs over a batch the last is read
        log.write_updates(
            torch.tensor(lines), step, torch.full((2, 3), 0.1 * epoch), turn_ids, torch.tensor([[False, True]] * 2)
        )
    run.write_metrics(
        step, {"reward": 0.5, "actor/entropy": np.float32(0.2), "actor/grad_norm": float("nan"), "timing_s/step": 3}
    )


def test_the_report_reads_it(tmp_path: Path) -> None:
    """Metrics under the names of every run, rollouts with their gains, and the keys that credit depends on."""
    log_step(RunLog(tmp_path), 1)
    (run,) = read_runs([tmp_path])
    assert run.metrics == [{"step": 1, "reward": 0.5, "entropy": pytest.approx(0.2), "step_time": 3.0}]
    assert run.config["method"] == "a2tgpo" and run.config["turn_gamma"] == 0.9
    assert [rollout.reward for rollout in run.batches[0].rollouts] == [1.0, 0.0]
    assert run.batches[0].rollouts[0].gain == [pytest.approx(0.5)]
    first, second = (rollout.update for rollout in run.batches[0].rollouts)
    assert first is not None and (first.clipped, first.log_ratio) == ([False, True], pytest.approx([0.2, 0.2]))
    assert second is not None and second.ratio == pytest.approx([1.221403], abs=1e-5)


def test_a_resumed_run_takes_its_last_steps_again(tmp_path: Path) -> None:
    """What was logged after the checkpoint goes: metrics, half a line, and batches."""
    run = RunLog(tmp_path)
    for step in (1, 2, 3):
        log_step(run, step, done=step - 1)
    with run.metrics.open("a") as file:
        file.write('{"step": 4, "rew')
    log_step(run, 3, done=2)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]
    assert [file.name for file in sorted((tmp_path / "rollouts").iterdir())] == [
        f"{kind}_{i:06d}.jsonl" for kind in ("step", "updates") for i in range(3)
    ]


def test_another_run_is_not_written_over(tmp_path: Path) -> None:
    """With trainer.resume_mode=disable a folder that holds a run is refused."""
    log_step(RunLog(tmp_path), 1)
    with pytest.raises(ValueError, match="already holds a run"):
        RunLog(tmp_path).begin({}, step=0, resumes=False)


def test_a_batch_is_logged_as_trl_logs_it() -> None:
    """Rewards and lengths over valid rollouts alone, prompts whose rollouts all failed left out; observations are no
    tokens of the policy."""
    lengths = [1, 2, 3, 4, 9, 9, 5, 9]
    batch = as_rollouts(
        {
            "prompts": [torch.tensor([4])] * 8,
            "responses": [torch.full((n + 2,), 6) for n in lengths],
            "response_mask": [torch.tensor([1] * n + [0, 0]) for n in lengths],
        },
        RowOrder(list(range(8)), 2, 8),
        answers=[[]] * 8,
        pad_id=0,
        end_ids=(),
        cut_last_result=False,
    )
    credit = BatchCredit(
        likelihood=None,
        gain=None,
        is_process=torch.zeros(8, 1, dtype=torch.bool),
        n_turns=torch.ones(8, dtype=torch.long),
        outcome=torch.tensor([1.0, 0.0, 1.0, 1.0, torch.nan, torch.nan, 0.0, 5.0]),
        valid=torch.tensor([True] * 4 + [False] * 2 + [True, False]),
        normalized_gain=torch.zeros(8, 1),
        advantage=torch.zeros(8, 1),
        clip_scale=torch.ones(8, 1),
    )
    found = batch_metrics(batch, credit)
    assert found["reward"] == pytest.approx(3 / 5) and found["frac_reward_zero_std"] == pytest.approx(2 / 3)
    assert found["reward_std"] == pytest.approx(np.std([1, 0, 1, 1, 0], ddof=1))
    assert found["completions/mean_length"] == (1 + 2 + 3 + 4 + 5) / 5
