"""Rollouts of an update are sorted by length and lose the padding they share; what is learned stays the same."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from trl import GRPOTrainer

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.trl import trainer as trl_trainer
from a2tgpo.pipeline import likelihood as pipeline_likelihood
from a2tgpo.pipeline.microbatches import sort_by_length, trim_padding
from a2tgpo.pipeline.shared_prefix import SharedPrefix
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals.answer_likelihood import FusedReading
from tests.integrations.parts import add_head, questions, scripted_trainer, tiny_llama

SHORT, LONG = search_turn("so", "Kelo mentor"), search_turn("find it " * 40, "Kelo mentor")
SCRIPTS = [
    [SHORT, answer_turn("bora")],
    [LONG, SHORT, answer_turn("Kelo")],
    [answer_turn("bora")],
    [LONG, answer_turn("bora")],
    [SHORT, answer_turn("mitu")],
    [LONG, LONG, answer_turn("bora")],
    ["nothing to say"],
    [SHORT, SHORT, answer_turn("bora")],
]


def micro_batch(first_row: int, lengths: list[int], width: int) -> dict[str, Any]:
    """Rollouts of these lengths, which know their number."""
    rows = torch.arange(first_row, first_row + len(lengths))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).int()
    named = [f"rollout {row}" for row in rows.tolist()]
    return {"completion_mask": mask, "row": rows, "name": named, "n_tokens": torch.tensor(7), "images": None}


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=4, max_size=4),
    st.sampled_from([1, 2, 4]),
)
def test_rollouts_change_places_within_their_update_only(lengths: list[list[int]], per_update: int) -> None:
    """Each update keeps its rollouts, every field moves with its rollout, the longest come first, and what is no row
    stays as it is."""
    before = [micro_batch(2 * i, two, 9) for i, two in enumerate(lengths)]
    after = sort_by_length(before, per_update)
    flat = torch.tensor(lengths).flatten()
    for start in range(0, 4, per_update):
        rows = torch.cat([one["row"] for one in after[start : start + per_update]])
        assert sorted(rows.tolist()) == list(range(2 * start, 2 * (start + per_update)))
        assert (flat[rows].diff() <= 0).all()
    for one in after:
        assert one["completion_mask"].sum(1).equal(flat[one["row"]])
        assert one["name"] == [f"rollout {row}" for row in one["row"].tolist()]
        assert one["n_tokens"] == 7 and one["images"] is None


@pytest.mark.parametrize(("longest", "kept"), [(200, 200), (137, 200), (136, 136), (1, 8), (0, 8)])
def test_padding_goes_in_whole_blocks(longest: int, kept: int) -> None:
    """Of 200 columns 64 go at a time and no token with them; one column stays for a batch without any token."""
    inputs = micro_batch(0, [longest, 0], 200)
    inputs |= {"turn_ids": inputs["completion_mask"] - 1, "prompt_ids": torch.zeros(2, 200)}
    cut = trim_padding(inputs)
    assert cut["completion_mask"].shape == cut["turn_ids"].shape == (2, kept)
    assert cut["completion_mask"].sum() == longest
    assert cut["prompt_ids"] is inputs["prompt_ids"]


def padded_reading(
    model: Any, ids: Any, labels: Any, autocast: Any, aux_loss: bool, attention_mask: Any
) -> FusedReading:
    """TRL's own reading, of every column."""
    read = labels.masked_fill(attention_mask == 0, -100)
    output = model(input_ids=ids, attention_mask=attention_mask, labels=ids, fused_lm_head=True)
    written = torch.nn.functional.pad(read[:, 1:] != -100, (1, 0))
    logps, entropies = (torch.nn.functional.pad(x, (1, 0)) * written for x in (output.log_probs, output.entropy))
    return FusedReading(logps, entropies)


def trained(tmp_path: Path, **changes: Any) -> tuple[dict[str, torch.Tensor], list[tuple[int, int]]]:
    """The policy after one update of four micro-batches for each iteration, and the shapes of its forwards."""
    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_grad_norm=0.0,
        learning_rate=1e-2,
        optim="sgd",
        **changes,
    )
    trainer.beta, trainer.ref_model = 0.1, tiny_llama(trainer._tokenizer, seed=1)
    add_head(trainer.ref_model)
    shapes: list[tuple[int, int]] = []

    def keep(module: Any, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled():
            shapes.append(tuple(kwargs["input_ids"].shape))

    trainer.model.model.register_forward_pre_hook(keep, with_kwargs=True)
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}, shapes


@pytest.mark.parametrize(("accumulated", "generated"), [(2, 4), (4, 2), (3, 4), (2, 2)])
def test_only_rollouts_of_the_same_update_change_places(tmp_path: Path, accumulated: int, generated: int) -> None:
    """TRL shuffles a batch and cuts it into updates: those keep their rollouts whether a batch feeds several updates,
    an update takes several batches, or neither divides the other."""
    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulated,
        steps_per_generation=generated,
        max_steps=4,
        num_generations=2,
        dataset=questions(16),
        gain_method="rows",  # advantages, by which rollouts are told apart here, are known before the update
    )
    shuffled: list[list[Any]] = []
    taken: list[Any] = []
    prepare, step = GRPOTrainer._prepare_inputs, trainer.training_step

    def watched(self: Any, batch: Any) -> Any:
        before = self._buffered_inputs
        result = prepare(self, batch)
        if self._buffered_inputs is not before:
            shuffled.extend(one["advantages"].sum(1).tolist() for one in self._buffered_inputs)
        return result

    def keep(model: Any, inputs: Any, *rest: Any) -> Any:
        prepared = trainer._prepare_inputs(inputs)
        taken.append(prepared["advantages"].sum(1).tolist())
        trainer._prepare_inputs = lambda _: prepared
        try:
            return step(model, inputs, *rest)
        finally:
            del trainer._prepare_inputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GRPOTrainer, "_prepare_inputs", watched)
        trainer.training_step = keep
        trainer.train()
    assert len(taken) == 4 * accumulated
    for start in range(0, len(taken), accumulated):
        theirs, ours = (sorted(chain(*rows[start : start + accumulated])) for rows in (shuffled, taken))
        assert ours == theirs


@pytest.mark.parametrize("price", [1e9, 0.0])
@pytest.mark.parametrize("method", ["a2tgpo", "dapo"])
def test_an_update_learns_the_same_from_fewer_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, price: float
) -> None:
    """Two updates on a batch, with a KL penalty (means over rollouts and over tokens), end at the same weights as those
    in TRL's order, over all columns, whose head sees every position; their forwards get fewer columns. Where a forward
    has no price, rollouts of other lengths have forwards of their own."""
    changes = {"method": method, "num_iterations": 2, "max_steps": 2}
    monkeypatch.setattr(SharedPrefix, "find", lambda *_: None)
    monkeypatch.setattr(trl_trainer, "forward_price", lambda model: price)
    ours, shapes = trained(tmp_path / "ours", **changes)
    monkeypatch.setattr(trl_trainer, "forward_price", lambda model: 1e9)
    monkeypatch.setattr(trl_trainer, "cheapest_order", lambda micro_batches, *_, **__: micro_batches)
    monkeypatch.setattr(trl_trainer, "trim_padding", lambda inputs, multiple_of: inputs)
    monkeypatch.setattr(pipeline_likelihood, "fused_reading", padded_reading)
    theirs, padded = trained(tmp_path / "theirs", **changes)
    start = tiny_llama(build_tokenizer()).state_dict()
    for name, weights in ours.items():
        moved = (weights - start[name]).abs().max()
        assert (weights - theirs[name]).abs().max() <= 1e-8 + 1e-4 * moved
    assert [rows for rows, _ in padded] == [2] * 8
    assert sum(rows for rows, _ in shapes) == 16 and (len(shapes) > 8) is (price == 0.0)
    (full,) = {columns for _, columns in padded}
    columns = [columns for _, columns in shapes]
    per_update = len(columns) // 2
    first = columns[:per_update]
    assert first == columns[per_update:] == sorted(first, reverse=True)
    assert first[0] == full and first[-1] < full / 2
