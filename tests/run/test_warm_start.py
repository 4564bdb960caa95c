"""The warm start teaches what the policy would have written, and nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from a2tgpo.data.demonstrations import demonstrate_hops
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.demonstration import Demonstration, encode_demonstration
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.run.recipe_file import load_recipe
from a2tgpo.run.warm_start import order_by_length, warm_start
from tests.integrations.parts import tiny_llama
from tests.run.parts import write_recipe

STEPS = 10


@dataclass
class Batch:
    """What one forward of the warm start was given."""

    ids: torch.Tensor
    labels: torch.Tensor
    attention: torch.Tensor


@dataclass
class WarmStart:
    """Ten steps on four demonstrations, all of them in every step, that leave the weights as they were."""

    agent: SearchAgent
    shown: list[Demonstration]
    encoded: list[dict[str, list[int]]]
    batches: list[Batch] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)


def opinionated_model(tokenizer: Any) -> LlamaForCausalLM:
    """A random policy to which some tokens are far likelier than others, so that every token has its own loss."""
    model = tiny_llama(tokenizer)
    torch.nn.init.normal_(model.lm_head.weight)
    return model


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> WarmStart:
    """The warm start, with every batch that reached the model."""
    folder = tmp_path_factory.mktemp("warm_start")
    agent = SearchAgent(build_tokenizer(), lambda queries: [[] for _ in queries], RolloutLimits(passage_tokens=16))
    shown = list(demonstrate_hops(4, hops=(1, 2)))
    done = WarmStart(agent, shown, [encode_demonstration(agent, demonstration) for demonstration in shown])
    assert len({len(row["input_ids"]) for row in done.encoded}) > 1
    settings = dict(warm_start_steps=STEPS, warm_start_batch_size=4, warm_start_micro_batch_size=2)
    recipe = write_recipe(folder / "recipe.yaml", folder, warm_start_learning_rate=0.0, **settings)
    model = opinionated_model(agent.tokenizer)

    def keep(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        done.batches.append(Batch(*(kwargs[name].clone() for name in ("input_ids", "labels", "attention_mask"))))

    model.register_forward_pre_hook(keep, with_kwargs=True)
    done.losses = warm_start(model, agent.tokenizer, done.encoded, load_recipe(str(recipe)), folder / "out")
    return done


def test_only_what_the_policy_writes_is_a_label(done: WarmStart) -> None:
    """In every batch of every step the labels that are kept are the tokens of the row's turns, each tokenised alone,
    at their own places; a batch has as many of them as its rows' masks have ones."""
    rows = {tuple(row["input_ids"]): (row, shown) for row, shown in zip(done.encoded, done.shown, strict=True)}
    assert [len(batch.ids) for batch in done.batches] == [2] * (2 * STEPS)
    for batch in done.batches:
        masked = 0
        for ids, labels, attention in zip(batch.ids, batch.labels, batch.attention, strict=True):
            row, shown = rows[tuple(ids[attention.bool()].tolist())]
            turns = [
                *(search_turn(lookup.thought, lookup.query) for lookup in shown.lookups),
                answer_turn(shown.answer),
            ]
            kept = labels != -100
            assert labels[kept].tolist() == [token for turn in turns for token in done.agent.encode_turn(turn)]
            assert torch.equal(labels[kept], ids[kept]) and not kept[~attention.bool()].any()
            assert kept[attention.bool()].int().tolist() == row["completion_mask"]
            masked += sum(row["completion_mask"])
        assert (batch.labels != -100).sum() == masked


def test_the_loss_is_the_mean_over_what_the_policy_writes(done: WarmStart) -> None:
    """Ten steps are logged once, at step 10, with the mean negative log-likelihood of the written tokens of the whole
    batch, however it is divided into micro-batches; that of all tokens is another number."""
    model = opinionated_model(done.agent.tokenizer)
    written, everything = [], []
    for row in done.encoded:
        ids, mask = torch.tensor(row["input_ids"]), torch.tensor(row["completion_mask"])
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        written.append(losses[mask[1:].bool()])
        everything.append(losses)
    expected, of_all = torch.cat(written).mean().item(), torch.cat(everything).mean().item()
    assert abs(expected - of_all) > 0.01
    assert done.losses == [{"step": STEPS, "loss": pytest.approx(expected, abs=1e-3)}]


def test_a_batch_is_sorted_by_length() -> None:
    """Five steps of four of seven rows: each pass over the rows has every row once, in an order of the seed, and within
    each batch they go from short to long; in one large batch too, and where rows are fewer than a batch."""
    lengths = [5, 3, 9, 1, 7, 2, 8]
    order = order_by_length(lengths, steps=5, batch_size=4, seed=0)
    assert len(order) == 20
    batches = [order[start : start + 4] for start in range(0, 20, 4)]
    assert all([lengths[i] for i in batch] == sorted(lengths[i] for i in batch) for batch in batches)
    assert Counter(order).most_common()[-1][1] >= 2  # every row in each of the two whole passes
    assert order != order_by_length(lengths, steps=5, batch_size=4, seed=1)
    assert order == order_by_length(lengths, steps=5, batch_size=4, seed=0)
    assert order_by_length(lengths, steps=1, batch_size=7, seed=3) == [3, 5, 1, 0, 4, 6, 2]
    assert order_by_length([4, 1], steps=1, batch_size=5, seed=0).count(1) in (2, 3)
