"""What is written of a batch: one file a step and process, strict JSON, and no metric of nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import BatchCredit, RolloutBatch, TaskRow
from a2tgpo.pipeline.metrics import credit_metrics
from a2tgpo.pipeline.rollout_log import LoggedCall, RolloutLog, RolloutRecord, UpdateRecord, updates_file
from a2tgpo.rollout.protocol import answer_turn, search_turn
from tests.integrations.parts import failing_once, scripted_trainer

SEARCH = search_turn("find it", "Kelo mentor")


def batch_credit(rows: int, **changes: Any) -> BatchCredit:
    """Credit of `rows` rollouts of one process turn and an answer, numbered by their outcome."""
    shape = (rows, 2)
    values: dict[str, Any] = dict(
        likelihood=torch.linspace(0, 1, rows * 3).reshape(rows, 3),
        gain=torch.full(shape, 0.25),
        is_process=torch.tensor([[True, False]]).repeat(rows, 1),
        n_turns=torch.full((rows,), 2),
        outcome=torch.arange(rows).float(),
        valid=torch.ones(rows, dtype=torch.bool),
        normalized_gain=torch.zeros(shape),
        advantage=torch.zeros(shape),
        clip_scale=torch.ones(shape),
    )
    return BatchCredit(**(values | changes))


@dataclass(frozen=True)
class Process:
    """One of several processes, as the log sees it."""

    rank: int
    size: int


def write(log: RolloutLog, credit: BatchCredit, *, process: int = 0, processes: int = 1, step: int) -> range:
    """Write the rollouts of one process: a turn of one token, a result of one, an answer of one."""
    rows = len(credit.outcome) // processes
    ids = torch.tensor([[5, 6, 7]]).repeat(rows, 1)
    ones = torch.ones_like(ids)
    batch = RolloutBatch.of(
        ids,
        ones,
        ids,
        ones,
        torch.tensor([[True, False, True]]).repeat(rows, 1),
        group_size=2,
        tasks=[TaskRow(i, f"p{process}.{i}", ["bora"]) for i in range(rows)],
    )
    return log.write(batch, credit, METHODS["a2tgpo"], build_tokenizer(), step)


def log_of(folder: Path, process: int = 0, processes: int = 1) -> RolloutLog:
    return RolloutLog(folder, Process(process, processes))  # type: ignore[arg-type]  # it asks for nothing else


def read(path: Path) -> list[dict[str, Any]]:
    """Records of a file, refusing what is not strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_each_process_has_its_file(tmp_path: Path) -> None:
    """Of several processes each writes its own rows under its rank, numbered by group over all of them; one process
    alone writes no rank."""
    credit = batch_credit(6)
    for process in (0, 1):
        write(log_of(tmp_path / "two", process, 2), credit, process=process, processes=2, step=7)
    names = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert names == ["step_000007.rank0.jsonl", "step_000007.rank1.jsonl"]
    first, second = (read(tmp_path / "two" / name) for name in names)
    assert [record["reward"] for record in first + second] == [0, 1, 2, 3, 4, 5]
    assert [record["group"] for record in first + second] == [0, 0, 1, 1, 2, 2]
    assert [record["prompt"] for record in second] == ["p1.0", "p1.1", "p1.2"]
    write(log_of(tmp_path / "one"), batch_credit(2), step=7)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["step_000007.jsonl"]


def test_several_batches_in_one_step_are_all_kept(tmp_path: Path) -> None:
    """Where a step takes more than one generation, its file holds them all, groups and lines (which the log of updates
    names) numbered on; the next run's file of the same step replaces it, as after an interruption."""
    log = log_of(tmp_path)
    lines = [write(log, batch_credit(4), step=step) for step in (0, 0, 1)]
    assert lines == [range(0, 4), range(4, 8), range(0, 4)]
    assert [record["group"] for record in read(tmp_path / "step_000000.jsonl")] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [record["group"] for record in read(tmp_path / "step_000001.jsonl")] == [0, 0, 1, 1]
    write(log_of(tmp_path), batch_credit(2), step=0)
    assert len(read(tmp_path / "step_000000.jsonl")) == 2


def test_a_failed_rollout_is_written_as_json(tmp_path: Path) -> None:
    """A rollout without a reward has null for it: NaN is not JSON."""
    outcome = torch.tensor([1.0, float("nan")])
    credit = batch_credit(2, outcome=outcome, valid=~outcome.isnan())
    write(log_of(tmp_path), credit, step=0)
    records = read(tmp_path / "step_000000.jsonl")
    assert [record["reward"] for record in records] == [1.0, None]
    assert [record["valid"] for record in records] == [True, False]


def test_segments_are_the_turns(tmp_path: Path) -> None:
    """A record's segments are the runs of one author with their exact ids, −1 for the environment."""
    write(log_of(tmp_path), batch_credit(1), step=0)
    (record,) = read(tmp_path / "step_000000.jsonl")
    assert [(s["turn"], s["ids"]) for s in record["segments"]] == [(0, [5]), (-1, [6]), (1, [7])]
    assert record["gain"] == [0.25] and len(record["likelihood"]) == 2 and len(record["advantage"]) == 2


def test_metrics_of_nothing_are_left_out() -> None:
    """A batch without a process turn, or without a valid rollout, logs no mean of nothing: one NaN would spoil the
    average of every step it is logged with."""
    none = torch.zeros(2, 2, dtype=torch.bool)
    answers = credit_metrics(batch_credit(2, is_process=none, n_turns=torch.ones(2, dtype=torch.long)))
    assert "clip_scale/mean" not in answers and "gain/turn_1" not in answers
    assert answers["rollout/turns"] == 1 and answers["advantage/turn_1"] == 0
    failed = credit_metrics(batch_credit(2, valid=torch.zeros(2, dtype=torch.bool)))
    assert failed == {"rollout/invalid": 1.0}


def test_metrics_are_means_over_who_got_there() -> None:
    """Each depth is averaged over the valid rollouts that have it, by hand."""
    credit = batch_credit(
        3,
        is_process=torch.tensor([[True, True], [True, False], [True, True]]),
        n_turns=torch.tensor([2, 2, 2]),
        valid=torch.tensor([True, True, False]),
        gain=torch.tensor([[0.1, 0.4], [0.3, 9.0], [9.0, 9.0]]),
        advantage=torch.tensor([[1.0, 2.0], [3.0, -1.0], [9.0, 9.0]]),
        clip_scale=torch.tensor([[1.1, 0.9], [1.0, 5.0], [5.0, 5.0]]),
        likelihood=torch.tensor([[0.1, 0.2, 0.6], [0.3, 0.6, 0.0], [1.0, 1.0, 1.0]]),
    )
    metrics = credit_metrics(credit)
    assert metrics["gain/turn_1"] == pytest.approx(0.2) and metrics["gain_std/turn_1"] == pytest.approx(0.1)
    assert metrics["gain/turn_2"] == pytest.approx(0.4)
    assert metrics["advantage/turn_2"] == pytest.approx(0.5)
    assert metrics["clip_scale/mean"] == pytest.approx(1.0)
    assert metrics["likelihood/before"] == pytest.approx(0.2)
    assert metrics["likelihood/after"] == pytest.approx(0.6)
    assert metrics["rollout/invalid"] == pytest.approx(1 / 3)


def test_a_batch_whose_searches_all_failed_for_some_trains_on(tmp_path: Path) -> None:
    """Through a whole real step with a tool that fails once, every logged number is a number."""
    trainer = scripted_trainer(
        tmp_path,
        [[SEARCH, answer_turn("bora")], [answer_turn("kelo")]],
        search=failing_once(),
        rollouts_dir=str(tmp_path / "r"),
    )
    trainer.train()
    numbers = {name: value for log in trainer.state.log_history for name, value in log.items()}
    assert not [name for name, value in numbers.items() if value != value]
    records = read(tmp_path / "r" / "step_000000.jsonl")
    assert [record["reward"] for record in records] == [None, 0.0] * 4


def test_updates_say_how_far_the_policy_moved(tmp_path: Path) -> None:
    """Two passes over one batch in shuffled micro-batches: every rollout has a line per update under its own number;
    the first finds ratio 1; the second's ratio is the exponential of the mean of that turn's token log-ratios, and a
    turn is clipped where its ratio left the logged bounds against the sign of its advantage."""
    scripts = [[SEARCH, answer_turn("bora")], [answer_turn("kelo")], [SEARCH, SEARCH, answer_turn("bora")], ["no tag"]]
    trainer = scripted_trainer(
        tmp_path,
        scripts,
        num_iterations=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=2,
        learning_rate=0.02,
        rollouts_dir=str(tmp_path / "rollouts"),
    )
    trainer.train()
    (file,) = (tmp_path / "rollouts").glob("step_*.jsonl")
    rollouts, updates = read(file), read(updates_file(file))
    assert sorted((line["step"], line["row"]) for line in updates) == [(s, r) for s in (1, 2) for r in range(8)]
    n_clipped = 0
    for line in updates:
        rollout = rollouts[line["row"]]
        turns = [segment for segment in rollout["segments"] if segment["turn"] >= 0]
        assert len(line["log_ratio"]) == sum(len(turn["ids"]) for turn in turns)
        assert len(line["ratio"]) == len(line["clipped"]) == len(turns)
        if line["step"] == 1:
            assert line["ratio"] == pytest.approx([1.0] * len(turns), abs=1e-5)
        tokens = iter(line["log_ratio"])
        for k, turn in enumerate(turns):
            ratio, advantage = line["ratio"][k], rollout["advantage"][k]
            mean = sum(next(tokens) for _ in turn["ids"]) / len(turn["ids"])
            assert ratio == pytest.approx(math.exp(mean), abs=1e-4)
            outside = ratio > rollout["clip_high"][k] if advantage > 0 else ratio < rollout["clip_low"][k]
            assert line["clipped"][k] == (outside and abs(advantage) > 1e-6)
            n_clipped += line["clipped"][k]
    assert n_clipped > 0


def test_a_batch_taken_again_forgets_its_old_updates(tmp_path: Path) -> None:
    """A resumed run writes a step's rollouts anew; what an earlier attempt noted of their updates goes with them."""
    stale = updates_file(tmp_path / "step_000003.jsonl")
    stale.write_text("{}\n", encoding="utf-8")
    write(log_of(tmp_path), batch_credit(2), step=3)
    assert not stale.exists()


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    """A line read by the schema is the record that was written, numbers that JSON does not have as NaN, and halves of
    surrogate pairs, which an environment may say and no file can hold, as U+FFFD."""
    credit = batch_credit(2, gain=torch.tensor([[float("nan"), 0.0], [0.5, 0.0]]))
    write(log_of(tmp_path), credit, step=0)
    lines = (tmp_path / "step_000000.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(RolloutRecord.from_line, lines)
    assert math.isnan(first.gain[0]) and second.gain == [0.5]  # type: ignore[index]
    assert second.to_line() == lines[1] and (second.id, second.prompt, second.answer) == (1, "p0.1", ["bora"])
    called = replace(second, calls=[LoggedCall("5", [], None, "guess", True)], call_seconds=[0.25], success=False)
    back = RolloutRecord.from_line(called.to_line())
    assert back.calls == [LoggedCall("5", [], 0.25, "guess", True)] and back.success is False
    assert back.to_line() == called.to_line()
    broken = RolloutRecord.from_line(replace(second, observed="[S]\ud800F", reason="\udfff").to_line())
    assert (broken.observed, broken.reason) == ("[S]\ufffdF", "\ufffd") and broken.to_line().encode()
    update = UpdateRecord(row=1, step=3, ratio=[1.5], clipped=[True], log_ratio=[0.25, -0.5])
    assert UpdateRecord.from_line(update.to_line()) == update
