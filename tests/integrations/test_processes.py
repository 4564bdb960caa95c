"""Two real processes over gloo give what one process gives on the joined batch.

Both are started once for the whole file, on the loopback interface alone; what they computed comes back as files.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from a2tgpo.core import turn_credit, turn_ids
from a2tgpo.integrations.trl.accelerate_collective import AccelerateCollective
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import BatchCredit, RolloutBatch, SingleProcess, TaskRow, TurnSignals, assign_credit
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals.answer_likelihood import Boundaries
from tests.integrations import test_tool_turns
from tests.integrations.parts import questions, record_credit, scripted_trainer
from tests.integrations.test_kept_answers import expected_of
from tests.integrations.test_tool_turns import GREEDY

PROCESSES, GROUP, ROWS = 2, 4, 6
"""Rollouts of a prompt are consecutive, so that the second of three prompts lies on both processes."""

DEPTH = (2, 4)
"""Most turns of a rollout, per process."""

SEARCH, OTHER = search_turn("find it", "Kelo mentor"), search_turn("so", "kelo founder is it next")
SCRIPTS = (
    [
        [SEARCH, answer_turn("bora")],
        [OTHER, answer_turn("kelo")],
        [answer_turn("bora")],
        ["no tag"],
        [SEARCH, answer_turn("kelo")],
        [OTHER, answer_turn("bora")],
    ],
    [
        [SEARCH, OTHER, SEARCH, answer_turn("bora")],
        [OTHER, answer_turn("mitu")],
        [SEARCH, SEARCH, answer_turn("bora")],
        [answer_turn("mitu")],
        [OTHER, OTHER, answer_turn("kelo")],
        [SEARCH, "no tag"],
    ],
)


def turns(process: int, width: int) -> tuple[RolloutBatch, TurnSignals]:
    """Random likelihoods of one process's rollouts, 1 to `DEPTH[process]` turns deep, padded to `width` turns.

    A turn is one token, and so is an observation.
    """
    depth = DEPTH[process]
    generator = torch.Generator().manual_seed(process)
    n_turns = torch.randint(1, depth + 1, (ROWS,), generator=generator)
    n_turns[0] = depth
    n_process = n_turns - torch.randint(0, 2, (ROWS,), generator=generator)
    is_process = torch.arange(width) < n_process[:, None]
    exists = torch.cat([torch.ones(ROWS, 1, dtype=torch.bool), is_process], dim=1)
    drawn = torch.nn.functional.pad(torch.rand(ROWS, depth + 1, generator=generator), (0, width - depth))
    written = (torch.arange(width) < n_turns[:, None]) & has_tokens(process)[:, None]
    model_mask = torch.stack([written, torch.zeros_like(written)], dim=2).flatten(1)
    one = torch.ones(ROWS, 2 * width, dtype=torch.long)
    boundaries = Boundaries(torch.zeros_like(exists, dtype=torch.long), exists, is_process, n_turns)
    batch = RolloutBatch(
        one[:, :1],
        one[:, :1],
        one,
        one,
        model_mask,
        turn_ids(model_mask),
        boundaries,
        GROUP,
        [TaskRow(None, "Who?")] * ROWS,
        [None] * ROWS,
        torch.zeros(ROWS, dtype=torch.bool),
    )
    return batch, TurnSignals(likelihood=drawn.masked_fill(~exists, 0.0))


def outcome() -> torch.Tensor:
    """Rewards of the global batch; one rollout has none."""
    rewards = torch.rand(PROCESSES * ROWS, generator=torch.Generator().manual_seed(9))
    rewards[5] = float("nan")
    return rewards


def has_tokens(process: int) -> torch.Tensor:
    """The last process has a rollout without a token to train on, as if truncated, in the prompt that both share."""
    flags = torch.ones(ROWS, dtype=torch.bool)
    flags[1] = process == 0
    return flags


def train(folder: Path, scripts: list[list[str]]) -> Any:
    """One real step on `scripts`, all rollouts of this process in one batch."""
    trainer = scripted_trainer(
        folder,
        scripts,
        dataset=questions(3),
        per_device_train_batch_size=len(scripts),
        num_generations=GROUP,
        optim="sgd",
        learning_rate=0.1,
        rollouts_dir=str(folder / "rollouts"),
    )
    trainer.train()
    return trainer


def tool_loops(folder: Path, process: int) -> dict[str, Any]:
    """A batch of TRL's tool loop, for which the second process needs a pass over its trajectories; and a step."""
    made = test_tool_turns.trainer(folder, tool=test_tool_turns.overlong_first() if process else None, **GREEDY)
    with pytest.MonkeyPatch.context() as patch:
        recorded = record_credit(patch)
        passes = test_tool_turns.equal_until_one_ends(made, same_answers=process == 0)
    found, expected = recorded[0].signals.likelihood, expected_of(made, recorded[0].batch).likelihood
    trained = test_tool_turns.trainer(folder)
    trained.train()
    weights = {name: weight.detach() for name, weight in trained.model.named_parameters()}
    return {"passes": passes, "found": found, "expected": expected, "weights": weights}


def one_of_two(process: int, folder: str) -> None:
    """What each of the two processes does."""
    os.environ |= {
        "RANK": str(process),
        "LOCAL_RANK": str(process),
        "WORLD_SIZE": str(PROCESSES),
        "LOCAL_WORLD_SIZE": str(PROCESSES),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=process,
        world_size=PROCESSES,
        timeout=timedelta(seconds=180),
    )
    collective = AccelerateCollective(Accelerator(cpu=True))
    mine = outcome()[process * ROWS : (process + 1) * ROWS]
    credit = assign_credit(*turns(process, DEPTH[process]), mine, METHODS["a2tgpo"], collective)
    trainer = train(Path(folder), SCRIPTS[process])
    found = {
        "credit": vars(credit.local(collective)),
        "weights": {name: weight.detach() for name, weight in trainer.model.named_parameters()},
        "logs": trainer.state.log_history,
        "trl_processes": trainer.accelerator.num_processes,
        "tools": tool_loops(Path(folder), process),
    }
    torch.save(found, Path(folder) / f"{process}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes left their results."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(one_of_two, args=(str(folder),), nprocs=PROCESSES)
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """What each process computed."""
    return [torch.load(folder / f"{process}.pt", weights_only=False) for process in range(PROCESSES)]


def joined_credit() -> BatchCredit:
    """Credit of both processes' rollouts, computed in this one."""
    batches, signals = zip(*(turns(process, max(DEPTH)) for process in range(PROCESSES)), strict=True)
    bounds = [batch.boundaries for batch in batches]
    columns = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "model_mask", "turn_ids", "failed")
    whole = replace(
        batches[0],
        **{name: torch.cat([getattr(batch, name) for batch in batches]) for name in columns},
        boundaries=Boundaries(**{f.name: torch.cat([getattr(b, f.name) for b in bounds]) for f in fields(Boundaries)}),
        tasks=batches[0].tasks * 2,
        records=batches[0].records * 2,
    )
    likelihood = torch.cat([one.likelihood for one in signals])
    return assign_credit(whole, TurnSignals(likelihood), outcome(), METHODS["a2tgpo"], SingleProcess())


def test_credit_of_two_processes_is_that_of_one(results: list[dict[str, Any]]) -> None:
    """With a prompt's rollouts on both processes and a different number of turns on each, each process gets exactly the
    rows one process computes for the joined batch, to the last bit."""
    whole = joined_credit()
    for process, result in enumerate(results):
        rows = slice(process * ROWS, (process + 1) * ROWS)
        for name in (f.name for f in fields(BatchCredit) if f.name != "shared"):
            wanted, got = getattr(whole, name)[rows], result["credit"][name]
            assert torch.equal(torch.nan_to_num(got, nan=-9.0), torch.nan_to_num(wanted, nan=-9.0)), name
    prompt = torch.tensor([0] * 4 + [1] * 4 + [2] * 4)
    core = turn_credit(whole.gain, whole.is_process, whole.outcome, prompt, n_turns=whole.n_turns, valid=whole.valid)
    assert torch.equal(core.advantage, whole.advantage)
    shared = whole.advantage[4:8]
    assert whole.valid[4:8].tolist() == [True, False, True, True]
    assert (shared[[0, 2]] != 0).any(dim=1).all() and (shared[1] == 0).all()


def test_a_step_of_two_processes_is_that_of_one(tmp_path: Path, folder: Path, results: list[dict[str, Any]]) -> None:
    """A real step leaves the same weights in both processes, and they are those of one process that trains on all the
    rollouts: groups, losses and gradients are the global batch's."""
    first, second = (result["weights"] for result in results)
    assert [result["trl_processes"] for result in results] == [2, 2]
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = train(tmp_path, [*SCRIPTS[0], *SCRIPTS[1]])
    untrained = dict(scripted_trainer(tmp_path, SCRIPTS[0]).model.named_parameters())
    for name, weight in alone.model.named_parameters():
        torch.testing.assert_close(first[name], weight.detach(), atol=2e-6, rtol=1e-4)
    moved = max((first[name] - weight).abs().max().item() for name, weight in untrained.items())
    assert moved > 1e-3
    assert prompts(folder) == prompts(tmp_path)


def prompts(folder: Path) -> list[tuple[str, int]]:
    """Prompt and group of every rollout, in the order of the global batch."""
    paths = sorted((folder / "rollouts").glob("step_000000*.jsonl"))
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [(record["prompt"], record["group"]) for record in map(json.loads, lines)]


def test_metrics_are_of_both_processes(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    """What the main process logs of credit, rollouts, reward and loss is what one process logs of all rollouts."""
    logs = results[0]["logs"][0]
    expected = train(tmp_path, [*SCRIPTS[0], *SCRIPTS[1]]).state.log_history[0]
    families = ("gain", "advantage", "clip_scale", "likelihood", "rollout", "reward", "loss")
    compared = [name for name in expected if name.startswith(families)]
    assert {"gain/turn_3", "rollout/searches", "rollout/malformed", "clip_scale/std", "reward"} <= set(compared)
    for name in compared:
        assert logs[name] == pytest.approx(expected[name], abs=1e-4), name


def test_trls_tool_loop_in_both(results: list[dict[str, Any]]) -> None:
    """Where one process has to score its batch by a pass, the other goes with it, which would wait for it otherwise;
    each finds its own likelihoods, and a step moves the same weights in both."""
    tools = [found["tools"] for found in results]
    for found in tools:
        assert found["passes"] == 1
        torch.testing.assert_close(found["found"], found["expected"], atol=1e-4, rtol=0)
    assert all(weight.equal(tools[1]["weights"][name]) for name, weight in tools[0]["weights"].items())
