"""`TagRollout` grows what it is told to, refuses what it cannot, and evaluates without branches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from a2tgpo.integrations.trl.rollout_func import TagRollout, _refuse_shards
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.strategies import DynamicSampling, EntropyBranch, Independent, Sampling, Tree
from tests.rollout.scripted import ScriptedEngine
from tests.rollout.test_branching import turn
from tests.rollout.test_tree import SEARCH, TOKENIZER, found

X = turn(answer_turn("x"), 0.1)


class Scripted(TagRollout):
    """A `TagRollout` whose turns are written; the rest of the path to TRL is its own."""

    def __init__(self, sampling: Sampling, scripts: list[list[Any]]) -> None:
        super().__init__(SearchAgent(TOKENIZER, found, RolloutLimits()), sampling=sampling)
        self.scripts = scripts

    @contextmanager
    def _engine(self, trainer: Any, n_rows: int) -> Iterator[Any]:
        yield ScriptedEngine(TOKENIZER, self.scripts)


def trainer(num_generations: int, *, training: bool = True) -> Any:
    """What `TagRollout` asks a trainer for."""
    return SimpleNamespace(model=SimpleNamespace(training=training), num_generations=num_generations)


@pytest.mark.parametrize(
    ("sampling", "scripts", "trees", "n_shared"),
    [
        (Tree(trees=1), [[X], [X]], [0, 0], 0),
        (EntropyBranch(initial=1, threshold=0.0), [[turn(SEARCH, 0.1), X], [X]], [0, 0], 1),
        (Independent(), [[X], [X]], [0, 1], 0),
        (DynamicSampling(), [[X], [X]], [0, 1], 0),
    ],
)
def test_the_sampling_is_carried_out(sampling: Sampling, scripts: Any, trees: list[int], n_shared: int) -> None:
    """Two rollouts of a prompt in the columns TRL gets, in each of the four ways."""
    columns = Scripted(sampling, scripts)(["Who?"] * 2, trainer(2))
    first, second = columns["rollout"]
    assert [first.tree, second.tree] == trees
    assert len(set(first.nodes) & set(second.nodes)) == n_shared
    assert columns["completion_ids"] == [first.completion_ids, second.completion_ids]
    assert columns["env_mask"] == [first.model_mask, second.model_mask]


def test_log_probabilities_of_another_engine_line_up_with_the_tokens() -> None:
    """What an engine reports of its turns is TRL's `logprobs`: one for each token, 0 for the environment's, a branch's
    shared beginning included. Rollouts of the policy itself have none."""
    one, two = (TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in (SEARCH, answer_turn("x")))
    searched = Turn(one, [0.1], [-0.5] * len(one))
    scripts = [[searched, Turn(two, [0.1], [-0.25] * len(two))], [Turn(two, [0.1], [-2.0] * len(two))]]
    columns = Scripted(EntropyBranch(initial=1, threshold=0.0), scripts)(["Who?"] * 2, trainer(2))
    for last, logps, rollout in zip((-0.25, -2.0), columns["logprobs"], columns["rollout"], strict=True):
        turns = torch.tensor(rollout.model_mask).bool()
        n_first = len(one)
        assert len(logps) == len(rollout.completion_ids)
        assert logps[:n_first] == [-0.5] * n_first
        assert torch.tensor(logps)[turns][n_first:].tolist() == [last] * len(two)
        assert not torch.tensor(logps)[~turns].any() and (~turns).any()
    assert Scripted(Independent(), [[X]])(["Who?"], trainer(1))["logprobs"] is None


def test_evaluation_is_independent() -> None:
    """A trainer that evaluates gets what the policy does by itself, whatever the number of rollouts."""
    columns = Scripted(Tree(trees=2), [[X], [X], [X]])(["Who?", "Who?", "Who, then?"], trainer(4, training=False))
    assert [rollout.tree for rollout in columns["rollout"]] == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "stage", "gather", "said"),
    [
        ("FSDP", None, True, "FSDP keeps the model in shards"),
        ("DEEPSPEED", 3, False, "DeepSpeed ZeRO-3 keeps the model in shards"),
        ("DEEPSPEED", 3, True, None),
        ("DEEPSPEED", 2, False, None),
        ("NO", None, True, None),
    ],
)
def test_shards_that_every_process_must_ask_for_are_refused(
    kind: str, stage: int | None, gather: bool, said: str | None
) -> None:
    """Rollouts of different lengths would leave processes waiting for each other's forwards for ever; a model that is
    gathered for generation, or whole, is fine."""
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType(kind), state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    trainer: Any = SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(ds3_gather_for_generation=gather))
    with nullcontext() if said is None else pytest.raises(ValueError, match=f"{said}.*set use_vllm=True"):
        _refuse_shards(trainer)


@pytest.mark.parametrize("sampling", [Tree(trees=2), EntropyBranch(initial=4)])
def test_another_number_of_rollouts_is_refused(sampling: Sampling) -> None:
    """Before anything is sampled, with what to set."""
    with pytest.raises(ValueError, match=r"num_generations=3.*set num_generations"):
        Scripted(sampling, [])(["Who?"] * 3, trainer(3))
