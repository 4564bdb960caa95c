"""Gains read from the update's own forwards: the same credit and the same weights as from a pass of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from a2tgpo import A2TGPOTrainer
from a2tgpo.integrations.trl import trainer, turn_credit_trainer
from a2tgpo.pipeline import microbatches
from a2tgpo.pipeline.shared_prefix import SharedPrefix
from a2tgpo.pipeline.update_gain import is_cheaper
from a2tgpo.rollout.protocol import answer_turn, search_turn
from tests.integrations.parts import questions, record_credit, scripted_trainer

LONG, SHORT = search_turn("so " * 30, "Kelo mentor"), search_turn("so", "Kelo mentor")
SCRIPTS = [
    [SHORT, answer_turn("bora")],
    [LONG, SHORT, answer_turn("Kelo")],
    [answer_turn("bora")],
    [SHORT, LONG, answer_turn("bora")],
]


class Run:
    """A run of one update on 4 prompts × 2 rollouts: its weights, log, credit, and how often the policy was run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
        self.folder = folder
        with monkeypatch.context() as patch:
            self.recorded = record_credit(patch)
            trainer = scripted_trainer(
                folder,
                SCRIPTS,
                **dict(
                    per_device_train_batch_size=4,
                    gradient_accumulation_steps=2,
                    num_generations=2,
                    dataset=questions(4),
                    optim="sgd",
                    max_grad_norm=0.0,
                    learning_rate=1e-1,
                )
                | changes,
            )
            self.forwards: list[bool] = []
            self.columns = 0  # of the forwards with gradient
            trainer.model.model.register_forward_pre_hook(self._note, with_kwargs=True)
            trainer.train()
        self.weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        self.logged = trainer.state.log_history[0]

    def _note(self, module: Any, args: Any, kwargs: Any) -> None:
        self.forwards.append(torch.is_grad_enabled())
        self.columns += kwargs["input_ids"].numel() * torch.is_grad_enabled()

    def lines(self, name: str) -> list[dict[str, Any]]:
        (path,) = (self.folder / "out/rollouts").glob(name)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(A2TGPOTrainer, "_reads_gain_in_update", lambda self, batch: False)


def close(ours: Any, theirs: Any) -> bool:
    """Equal, but for the rounding of a number and what a clock said."""
    if isinstance(ours, float):
        return ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(close, ours, theirs))
    if isinstance(ours, dict):
        timed = {"call_seconds"}
        return ours.keys() == theirs.keys() and all(close(ours[key], theirs[key]) for key in ours.keys() - timed)
    return bool(ours == theirs)


@pytest.mark.parametrize("method", ["a2tgpo", "igpo"])
def test_an_update_learns_what_it_does_behind_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Two forwards of two prompts each (a mean over rollouts, and one over tokens): the weights, the logged metrics,
    rollouts and updates are those of a run that scores first; and the policy is run once less for each forward."""
    ours = Run(tmp_path / "ours", monkeypatch, method=method)
    by_pass(monkeypatch)
    theirs = Run(tmp_path / "theirs", monkeypatch, method=method)
    assert ours.forwards == [True, False] * 2
    assert ours.forwards.count(True) == theirs.forwards.count(True) == 2 < theirs.forwards.count(False)
    for name, weights in ours.weights.items():
        torch.testing.assert_close(weights, theirs.weights[name], atol=1e-6, rtol=1e-5, msg=name)
    for name in ("gain/turn_1", "gain_std/turn_2", "advantage/turn_1", "rollout/searches", "entropy", "loss", "reward"):
        assert ours.logged[name] == pytest.approx(theirs.logged[name], rel=1e-3, abs=1e-5), name
    assert ours.logged.keys() == theirs.logged.keys()
    assert close(ours.lines("step_000000.jsonl"), theirs.lines("step_000000.jsonl"))
    updates, others = (sorted(run.lines("*updates*"), key=lambda line: line["row"]) for run in (ours, theirs))
    assert [line["row"] for line in updates] == [line["row"] for line in others] == list(range(8))
    assert close(updates, others)


@pytest.mark.parametrize(
    "changes",
    [
        dict(gradient_checkpointing=True),
        dict(num_generations=8, dataset=questions(1)),
        dict(num_iterations=2),
        dict(gain_method="rows"),
    ],
    ids=["keys are dropped", "a group spans two forwards", "two updates", "separate rows asked for"],
)
def test_where_a_pass_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """The batch is scored before its update: its one credit holds all eight rollouts."""
    run = Run(tmp_path, monkeypatch, **changes)
    assert [len(one.credit.outcome) for one in run.recorded] == [8]


def test_sorting_by_length_may_be_cheaper_than_the_pass() -> None:
    """Two forwards of two rollouts, 64 columns of prompt. Equal lengths: the pass is spared. Groups of a rollout of 64
    tokens and one of 960: apart they fill 128 + 1024 columns, and nothing is gained by sorting. Where a forward costs
    as much as 1,500 columns they stay together, 3 · 2 · (1500 + 2 · 1024) = 21,288; sorted, and once more for the pass,
    4 · (1500 + 2 · 1024 + 1500 + 2 · 128) = 21,216 is less. One forward for all four: nothing to sort."""
    mixed = [64, 960, 64, 960]
    assert is_cheaper([640] * 4, 64, rows_per_forward=2, forwards_per_update=2, price=0)
    assert is_cheaper(mixed, 64, rows_per_forward=2, forwards_per_update=2, price=10)
    assert not is_cheaper(mixed, 64, rows_per_forward=2, forwards_per_update=2, price=1500)
    assert is_cheaper(mixed, 64, rows_per_forward=4, forwards_per_update=1, price=1500)


def test_rollouts_of_like_length_share_a_forward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a price of nothing each length has a forward of its own: fewer columns are run than in whole forwards, and
    the weights, logged numbers and rollouts are the same."""
    monkeypatch.setattr(microbatches, "ALIGNMENT", 1)
    monkeypatch.setattr(SharedPrefix, "find", lambda *_: None)  # packed, the groups would stay together
    whole = Run(tmp_path / "whole", monkeypatch)
    for module in (trainer, turn_credit_trainer):
        monkeypatch.setattr(module, "forward_price", lambda model: 0.0)
    apart = Run(tmp_path / "apart", monkeypatch)
    assert apart.forwards.count(True) > whole.forwards.count(True)
    assert apart.columns < whole.columns
    for name, weights in apart.weights.items():
        torch.testing.assert_close(weights, whole.weights[name], atol=1e-6, rtol=1e-5, msg=name)
    timed = {name for name in apart.logged if "seconds" in name or "time" in name}
    assert close(*({k: v for k, v in run.logged.items() if k not in timed} for run in (apart, whole)))
    assert close(apart.lines("step_000000.jsonl"), whole.lines("step_000000.jsonl"))
    assert close(*(sorted(run.lines("*updates*"), key=lambda line: line["row"]) for run in (apart, whole)))
