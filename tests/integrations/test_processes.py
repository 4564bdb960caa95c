"""Two real processes over gloo give what one process gives on the joined batch.

Both are started once for the whole file, on the loopback interface alone; what they computed comes back as files.
"""

from __future__ import annotations

import json
import os
import random
import sys
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from a2tgpo import A2TGPOTrainer
from a2tgpo.core import turn_credit, turn_ids
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.trl.accelerate_collective import AccelerateCollective
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import BatchCredit, RolloutBatch, SingleProcess, TaskRow, TurnSignals, assign_credit
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals.answer_likelihood import Boundaries
from tests.integrations import test_tool_turns
from tests.integrations.parts import ScriptedRollout, config, questions, record_credit, scripted_trainer, tiny_llama
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


def observed(process: int) -> list[list[str]]:
    """What each rollout of a process saw before each of its turns: one of two texts."""
    batch, _ = turns(process, DEPTH[process])
    draw = random.Random(process)
    n_turns = batch.boundaries.n_turns.tolist()
    return [["", *(draw.choice(["Kelo", "Mitu"]) for _ in range(n - 1))] for n in n_turns]


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


class UnluckyFirst(ScriptedRollout):
    """Answers wrong throughout in the first batch of the first process, right and wrong by turns ever after."""

    def __init__(self, tokenizer: Any, process: int) -> None:
        super().__init__(tokenizer, [[answer_turn("bora")], [answer_turn("kelo")]])
        self.unlucky, self.calls = process == 0, 0

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        self.calls += 1
        scripts, self.scripts = self.scripts, [[answer_turn("kelo")]] if self.unlucky else self.scripts
        try:
            return super().__call__(prompts, trainer)
        finally:
            self.scripts, self.unlucky = scripts, False


def dynamic_sampling(folder: Path, process: int) -> dict[str, Any]:
    """A step of DAPO whose first batch teaches nothing in one process."""
    tokenizer = build_tokenizer()
    plays = UnluckyFirst(tokenizer, process)
    settings = dict(method="dapo", per_device_train_batch_size=4, rollouts_dir="")
    made = A2TGPOTrainer(
        tiny_llama(tokenizer),
        exact_match_reward,
        config(folder, **settings),
        train_dataset=questions(6),
        processing_class=tokenizer,
        rollout_func=plays,
    )
    made.train()
    return {"calls": plays.calls, "weights": {name: w.detach() for name, w in made.model.named_parameters()}}


def trees(folder: Path) -> dict[str, Any]:
    """A step of Tree-GRPO with rollouts that the policy itself writes; longer ones earn more."""
    tokenizer = build_tokenizer()
    limits = RolloutLimits(max_completion_tokens=60, max_turn_tokens=12)
    sampling = METHODS["tree-grpo"].sampling
    agent = SearchAgent(tokenizer, lambda queries: [[] for _ in queries], limits)

    def earns(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [float(len(set(ids))) for ids in completion_ids]

    settings = dict(method="tree-grpo", num_generations=sampling.n_rollouts, rollouts_dir="", max_completion_length=60)
    made = A2TGPOTrainer(
        tiny_llama(tokenizer),
        earns,
        config(folder, per_device_train_batch_size=sampling.n_rollouts, **settings),
        train_dataset=questions(4),
        processing_class=tokenizer,
        rollout_func=TagRollout(agent, sampling=sampling),
    )
    before = {name: weight.detach().clone() for name, weight in made.model.named_parameters()}
    made.train()
    return {"before": before, "weights": {name: w.detach() for name, w in made.model.named_parameters()}}


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
    batch, _ = turns(process, DEPTH[process])
    states = TurnSignals(observations=observed(process))
    gigpo = assign_credit(batch, states, mine, METHODS["gigpo"], collective).local(collective)
    trainer = train(Path(folder), SCRIPTS[process])
    found = {
        "credit": vars(credit.local(collective)),
        "weights": {name: weight.detach() for name, weight in trainer.model.named_parameters()},
        "logs": trainer.state.log_history,
        "trl_processes": trainer.accelerator.num_processes,
        "tools": tool_loops(Path(folder), process),
        "gigpo": gigpo.advantage,
        "dynamic": dynamic_sampling(Path(folder), process),
        "trees": trees(Path(folder)),
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


def joined_turns() -> tuple[RolloutBatch, torch.Tensor]:
    """The rollouts of both processes as one batch, and their likelihoods."""
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
    return whole, torch.cat([one.likelihood for one in signals])


def joined_credit() -> BatchCredit:
    """Credit of both processes' rollouts, computed in this one."""
    whole, likelihood = joined_turns()
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
    families = ("gain", "advantage", "clip_scale", "likelihood", "rollout", "reward", "loss", "entropy")
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


def test_dynamic_sampling_goes_on_in_both(results: list[dict[str, Any]]) -> None:
    """While one process has a prompt to replace both sample another batch, and then learn the same."""
    first, second = (found["dynamic"] for found in results)
    assert (first["calls"], second["calls"]) == (2, 2)
    assert all(weight.equal(second["weights"][name]) for name, weight in first["weights"].items())


def test_trees_grow_in_both(results: list[dict[str, Any]]) -> None:
    """Each process grows the trees of its prompts, of different depths; the step is one of both."""
    first, second = (found["trees"] for found in results)
    assert all(weight.equal(second["weights"][name]) for name, weight in first["weights"].items())
    assert any(not weight.equal(first["before"][name]) for name, weight in first["weights"].items())


def test_anchor_states_are_those_of_all_processes(results: list[dict[str, Any]]) -> None:
    """GiGPO compares turns that began from the same observation also where the rollouts of their prompt lie on two
    processes: each gets the rows that one process computes for the joined batch."""
    observations = [texts for process in range(PROCESSES) for texts in observed(process)]
    batch, _ = joined_turns()
    whole = assign_credit(batch, TurnSignals(observations=observations), outcome(), METHODS["gigpo"], SingleProcess())
    for process, result in enumerate(results):
        rows = whole.advantage[process * ROWS : (process + 1) * ROWS]
        width = min(rows.size(1), result["gigpo"].size(1))
        torch.testing.assert_close(result["gigpo"][:, :width], rows[:, :width])
    assert whole.advantage[6:8].unique().numel() > 2
