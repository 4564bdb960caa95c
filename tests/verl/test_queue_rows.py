"""Rows of a queue in any order, with padding and groups of unequal size, become the batch they were, and back."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.verl.queue_rows import (
    RowOrder,
    as_rollouts,
    credit_columns,
    pad_likelihoods,
    record_fields,
    record_from,
    token_weights,
)
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import RolloutBatch, SingleProcess, assign_credit, collect_signals
from a2tgpo.rollout.types import Rollout, Termination, ToolCall

# Prompt a: searches twice, once, answers at once. Prompt b: two rollouts of one search.
MASKS = {"a_0": [1, 0, 1, 0, 1], "a_1": [1, 1, 0, 1], "a_2": [1, 1], "b_0": [1, 0, 0, 1], "b_1": [1, 0, 1]}
LIKELIHOODS = {"a_0": [0.1, 0.2, 0.8], "a_1": [0.1, 0.5], "a_2": [0.1], "b_0": [0.3, 0.4], "b_1": [0.3, 0.1]}
REWARDS = {"a_0": 1.0, "a_1": 0.0, "a_2": -1.0, "b_0": 1.0, "b_1": 0.0}


def queue(names: list[str]) -> tuple[list[str], list[bool], dict[str, list[Any]]]:
    """Keys, padding marks and columns of rows in this order; `pad` is a padding row as verl makes one."""
    padding = [name.startswith("pad") for name in names]
    columns: dict[str, list[Any]] = {
        "prompts": [
            torch.full((127,), 1) if p else torch.arange(2, 4 + (n[0] == "b"))
            for n, p in zip(names, padding, strict=True)
        ],
        "responses": [torch.arange(5, 5 + len(MASKS.get(n, [0]))) for n in names],
        "response_mask": [torch.tensor(MASKS.get(n, [0])) for n in names],
        "answer_likelihood": [torch.tensor(LIKELIHOODS.get(n, [0.1])) for n in names],
        "rewards": [REWARDS.get(n, 0.0) for n in names],
        "extra_fields": [{} for _ in names],
        "extra_info": [{"index": 3, "id": n} for n in names],
        "raw_prompt": [[{"role": "user", "content": n}] for n in names],
    }
    return [f"{name}_0" for name in names], padding, columns


def credit_of(names: list[str], method: str = "a2tgpo") -> dict[str, dict[str, list[float]]]:
    """Columns of each row that is no padding, by name."""
    keys, padding, columns = queue(names)
    order = RowOrder.of(keys, padding)
    batch = as_rollouts(columns, order, answers=[["x"]] * len(names), pad_id=0, end_ids=(), cut_last_result=False)
    likelihood = pad_likelihoods(order.pick(columns["answer_likelihood"], lambda: torch.zeros(0)), batch)
    rewards = torch.tensor(order.pick(columns["rewards"], lambda: math.nan))
    row = METHODS[method]
    signals = collect_signals(batch, row, build_tokenizer(), likelihood=likelihood if row.signal else None)
    credit = assign_credit(batch, signals, rewards, row, SingleProcess())
    found = credit_columns(credit, batch, order, [len(response) for response in columns["responses"]])
    for i, is_padding in enumerate(padding):
        if is_padding:
            assert found["turn_ids"][i].tolist() == [-1] and found["loss_mask"][i].tolist() == [0]
    return {n: {c: v[i].tolist() for c, v in found.items()} for i, n in enumerate(names) if not padding[i]}


@pytest.mark.parametrize("method", ["a2tgpo", "grpo", "gigpo"])
def test_order_and_padding_do_not_matter(method: str) -> None:
    """Twenty shuffles, with padding rows strewn in, give each rollout the credit it has in order."""
    expected = credit_of(list(MASKS), method)
    rng = random.Random(0)
    for trial in range(20):
        names = [*MASKS, *(f"pad{i}_{i}" for i in range(trial % 3))]
        rng.shuffle(names)
        found = credit_of(names, method)
        for name in MASKS:
            for column, values in expected[name].items():
                assert found[name][column] == pytest.approx(values, abs=1e-6), (name, column)


def test_the_smaller_group_is_not_changed_by_its_blank_rollout() -> None:
    """Prompt b alone, without the blank that evens it out with prompt a, has the same credit."""
    together, alone = credit_of(list(MASKS)), credit_of(["b_0", "b_1"])
    assert {name: together[name] for name in alone} == alone


def test_columns_are_those_of_the_tokens() -> None:
    """Turn ids, and one advantage for all tokens of a turn; observations have none."""
    row = credit_of(list(MASKS))["a_1"]
    assert row["turn_ids"] == [0, 0, -1, 1]
    assert row["advantages"][0] == row["advantages"][1] != row["advantages"][3]
    assert row["advantages"][2] == 0 and row["loss_mask"] == [1, 1, 0, 1]


def test_several_outputs_of_a_rollout_are_refused() -> None:
    """Loops that cut a rollout into several rows count turns anew in each."""
    with pytest.raises(ValueError, match=r"'a_0_1' is output 1 of its rollout"):
        RowOrder.of(["a_0_0", "a_0_1"], [False, False])
    with pytest.raises(ValueError, match="no rollouts"):
        RowOrder.of(["pad_0_0"], [True])


def test_a_failed_tool_is_read_back_and_excluded() -> None:
    """Our loop's record survives the queue; a rollout that its tool failed has no token in the loss."""
    record = Rollout([2], [5, 6], [1, 0], Termination.TOOL_FAILED, "down", calls=[ToolCall("q", ("p1", "p2"))])
    fields = record_fields(record)
    back = record_from(fields, [2], [5, 6])
    assert back is not None
    assert (back.termination, back.reason, back.calls) == (record.termination, "down", record.calls)
    assert record_from({"other": 1}, [2], [5]) is None
    keys, padding, columns = queue(["b_0", "b_1"])
    columns["extra_fields"][1] = fields
    order = RowOrder.of(keys, padding)
    batch = as_rollouts(columns, order, answers=[[], []], pad_id=0, end_ids=(), cut_last_result=False)
    credit = assign_credit(
        batch,
        collect_signals(batch, METHODS["gspo"], build_tokenizer()),
        torch.ones(2),
        METHODS["gspo"],
        SingleProcess(),
    )
    assert credit.valid.tolist() == [True, False]
    assert credit_columns(credit, batch, order, [4, 3])["loss_mask"][1].tolist() == [0, 0, 0]


def test_tasks_carry_what_the_data_set_says() -> None:
    """Id, prompt and answers reach the log."""
    keys, padding, columns = queue(["a_0", "b_0"])
    order = RowOrder.of(keys, padding)
    batch: RolloutBatch = as_rollouts(
        columns, order, answers=[["x"], ["y"]], pad_id=0, end_ids=(), cut_last_result=False
    )
    assert [(task.id, task.answers) for task in batch.tasks] == [("a_0", ["x"]), ("b_0", ["y"])]
    assert batch.tasks[0].prompt == [{"role": "user", "content": "a_0"}]


def test_a_rejected_token_weighs_nothing_and_keeps_its_turn() -> None:
    """verl's correction writes another mask and weights; neither cuts a turn in two."""
    written, kept = [torch.tensor([1, 1, 1, 0])], [torch.tensor([1, 0, 1, 0])]
    assert token_weights(written, written) is None
    weights = token_weights(written, kept)
    assert weights is not None and weights[0].tolist() == [1, 0, 1, 0]
    weights = token_weights(written, kept, [torch.tensor([0.5, 2.0, 1.5, 0.0])])
    assert weights is not None and weights[0].tolist() == [0.5, 0, 1.5, 0]
