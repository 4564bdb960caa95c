"""Rows packed by their shared prefixes: the same log-probabilities, gradients and keys as rows of their own."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    DynamicCache,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from trl.trainer.utils import add_fused_lm_head

from a2tgpo.pipeline import likelihood, shared_prefix
from a2tgpo.pipeline.likelihood import read_update
from a2tgpo.pipeline.microbatches import cheapest_order, sort_by_length
from a2tgpo.pipeline.shared_prefix import SharedPrefix

SHAPE = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


def policy(kind: str = "llama", attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    if kind == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=128))
    else:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **SHAPE))
    model.set_attn_implementation(attention)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    add_fused_lm_head(model.eval(), outputs=("log_probs", "entropy"))
    return model


def micro_batch(rollouts: list[tuple[list[int], list[int]]]) -> dict[str, Tensor]:
    """Pad prompts on the left and completions on the right."""
    n_prompt, n_completion = (max(len(one[i]) for one in rollouts) for i in (0, 1))
    return {
        "prompt_ids": torch.tensor([[0] * (n_prompt - len(p)) + p for p, _ in rollouts]),
        "prompt_mask": torch.tensor([[0] * (n_prompt - len(p)) + [1] * len(p) for p, _ in rollouts]),
        "completion_ids": torch.tensor([c + [0] * (n_completion - len(c)) for _, c in rollouts]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (n_completion - len(c)) for _, c in rollouts]),
    }


PROMPTS = [[1 + i % 30 for i in range(20)], [9, 8, 7]]
STEM, LEAF = [5, 6, 7, 8, 9, 10], [11, 12]
TREE = [
    (PROMPTS[0], [*STEM, 1, 2, *LEAF]),
    (PROMPTS[0], [*STEM, 1, 2, 13, 14, 15]),  # leaves the first after two turns
    (PROMPTS[0], [*STEM, 3]),  # after one
    (PROMPTS[0], [*STEM, 3]),  # the same tokens again
    (PROMPTS[0], [*STEM]),  # ends where others go on
    (PROMPTS[0], [30, 31]),  # shares the prompt alone
    (PROMPTS[1], [4, 5, 6]),  # another prompt, behind padding
    (PROMPTS[1], [4, 5, 7]),
]


def reading(model: Any, columns: dict[str, Tensor], cache: Any = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Log-probabilities, entropies, and the gradients of a sum in which every token weighs otherwise."""
    written = columns["completion_mask"].bool() & (columns["completion_ids"] != 6)
    found = read_update(model, columns, written, nullcontext, cache=cache)
    weights = torch.linspace(-1, 2, found.logps.numel()).view_as(found.logps)
    model.zero_grad()
    (weights * (found.logps + 0.1 * found.entropies)).sum().backward()
    grads = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    return found.logps.detach(), found.entropies.detach(), grads


@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa")])
def test_packed_rows_have_the_gradients_of_rows_of_their_own(
    monkeypatch: pytest.MonkeyPatch, kind: str, attention: str
) -> None:
    """Two prompts, a tree of three depths, rows that repeat or end inside others, on rotary and on learned positions:
    log-probabilities, entropies, gradients and the keys left in a cache agree to 1e-5; fewer tokens are run."""
    model, columns = policy(kind, attention), micro_batch(TREE)
    sizes: list[tuple[int, int]] = []
    model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    monkeypatch.setattr(shared_prefix, "WORTH_IT", 10.0)
    packed_cache, cache = DynamicCache(config=model.config), DynamicCache(config=model.config)
    packed = reading(model, columns, packed_cache)
    monkeypatch.setattr(SharedPrefix, "find", lambda *_: None)
    alone = reading(model, columns, cache)
    # Both prompts' trees: 20 + 6 + 2 + 2 + 3 + 1 + 2 tokens, and 3 + 3 + 1.
    assert sizes == [(2, 36), (8, 31)]
    for ours, theirs in zip(packed[:2], alone[:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    for name, grad in alone[2].items():
        torch.testing.assert_close(packed[2][name], grad, atol=1e-5, rtol=1e-5, msg=name)
    attended = torch.cat([columns["prompt_mask"], columns["completion_mask"]], dim=1).bool()
    for mine, own in zip(packed_cache.layers, cache.layers, strict=True):
        for ours, theirs in ((mine.keys, own.keys), (mine.values, own.values)):
            there = attended[:, None, :, None].expand_as(theirs)
            torch.testing.assert_close(ours[there], theirs[there].detach(), atol=1e-5, rtol=1e-5)


ROWS = st.lists(
    st.tuples(st.sampled_from([[1, 2, 3], [1, 2], [4]]), st.lists(st.integers(1, 2), min_size=1, max_size=6)),
    min_size=2,
    max_size=6,
)


@settings(deadline=None)
@given(ROWS)
def test_each_token_sees_its_own_rollout_and_nothing_else(rollouts: list[tuple[list[int], list[int]]]) -> None:
    """Whatever rows share, the tokens that a packed one sees, in the order of their positions, are its row's so far;
    no two tokens of a tree follow the same tokens and are the same."""
    columns = micro_batch(rollouts)
    ids = torch.cat([columns["prompt_ids"], columns["completion_ids"]], dim=1)
    mask = torch.cat([columns["prompt_mask"], columns["completion_mask"]], dim=1)
    alike, first = shared_prefix._shared_tokens(ids, mask.bool()), mask.argmax(1).tolist()
    trees = shared_prefix._trees(alike, first, mask.sum(1).tolist(), 1)
    packed = SharedPrefix._of(trees, ids, max(tree.n_columns for tree in trees))
    for row, (row_ids, row_mask) in enumerate(zip(ids, mask.bool(), strict=True)):
        tree = packed.tree[row]
        own = row_mask.nonzero()[:, 0]
        for n, column in enumerate(own, start=1):
            seen = packed.sees[tree, packed.path[row, column]].nonzero()[:, 0]
            position, order = packed.position_ids[tree, seen].sort()
            assert position.equal(own[:n])
            assert packed.input_ids[tree, seen[order]].equal(row_ids[own[:n]])
    for number, tree in enumerate(trees):
        histories = {
            tuple(packed.input_ids[number, packed.sees[number, c].nonzero()[:, 0]].tolist())
            for c in range(tree.n_columns)
        }
        starts = {first for first, _, _ in tree.rows.values()}
        assert len(starts) == 1 and len(histories) == tree.n_columns


def test_rows_stay_apart_where_packing_does_not_pay() -> None:
    """Rows that share little, a single row."""
    columns = micro_batch(TREE)
    ids = torch.cat([columns["prompt_ids"], columns["completion_ids"]], dim=1)
    mask = torch.cat([columns["prompt_mask"], columns["completion_mask"]], dim=1)
    config = LlamaConfig(**SHAPE)
    assert SharedPrefix.find(ids[:4], mask[:4], config) is not None
    assert SharedPrefix.find(ids[[0, 6]], mask[[0, 6]], config) is None
    assert SharedPrefix.find(ids[:1], mask[:1], config) is None


def windowed() -> Any:
    config = Gemma3TextConfig(
        vocab_size=40,
        **SHAPE,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention"] * 2,
    )
    model = Gemma3ForCausalLM(config)
    add_fused_lm_head(model.eval(), outputs=("log_probs", "entropy"))
    return model


@pytest.mark.parametrize(
    ("made", "more", "options", "reason"),
    [
        (lambda: policy().to(torch.bfloat16), {"old_per_token_logps": torch.zeros(4, 11)}, {}, "half precision"),
        (windowed, {}, {}, "sliding window"),
        (policy, {}, {"share": False}, "pad_to_multiple_of"),
    ],
)
def test_rows_that_begin_alike_and_are_not_packed_are_named_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, made: Any, more: Any, options: Any, reason: str
) -> None:
    """Old log-probabilities in bfloat16, whose rounding the ratio would see; windows; a width that an engine set. The
    reason is logged at the first micro-batch that would have been packed, not at one that shares nothing nor later."""
    monkeypatch.setattr(likelihood, "_looks", Counter())
    model = made()

    def told(rollouts: list[tuple[list[int], list[int]]]) -> list[str]:
        columns, sizes = micro_batch(rollouts), []
        caplog.clear()
        hook = model.base_model.register_forward_pre_hook(
            lambda module, args, kwargs: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        read_update(model, columns | more, columns["completion_mask"].bool(), nullcontext, **options)
        hook.remove()
        assert sizes == [torch.cat([columns["prompt_ids"], columns["completion_ids"]], dim=1).shape]
        return [record.getMessage() for record in caplog.records]

    assert not told([([5 + i], [9 + i, i]) for i in range(4)])
    (message,) = told(TREE[:4])
    assert reason in message
    assert not told(TREE[:4])


def test_nobody_looks_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are not packed and none begin alike, they are compared in the first micro-batches and then no more."""
    monkeypatch.setattr(likelihood, "_looks", Counter())
    find, looks = SharedPrefix.find, []
    monkeypatch.setattr(SharedPrefix, "find", lambda *args: looks.append(args) or find(*args))
    columns = micro_batch([([5 + i], [9 + i, i]) for i in range(4)])
    model = policy()
    for _ in range(40):
        read_update(model, columns, columns["completion_mask"].bool(), nullcontext, share=False)
    assert 0 < len(looks) < 40


def test_half_precision_is_packed_where_the_ratio_is_to_itself() -> None:
    """A batch that feeds one update has no old log-probabilities."""
    model = policy().to(torch.bfloat16)
    assert likelihood.why_not_packed(model, nullcontext, old_logps=False) is None
    assert likelihood.why_not_packed(model.float(), nullcontext, old_logps=True) is None


def test_rows_of_a_prompt_meet_where_that_costs_less() -> None:
    """Two prompts whose rows were shuffled, two forwards of four rows: with long prompts each forward gets one's; where
    nothing is shared, or rows are not packed, the order is that of the lengths."""
    long = [([1] * 60, [2] * n) for n in (4, 1, 3, 2)] + [([3] * 60, [2] * n) for n in (4, 3, 2, 1)]
    shuffled = [long[i] for i in (0, 4, 1, 5, 2, 6, 3, 7)]
    joined = micro_batch(shuffled)
    micro = [{name: rows[half] for name, rows in joined.items()} for half in (slice(0, 4), slice(4, 8))]
    config = LlamaConfig(**SHAPE)
    assert [set(one["prompt_ids"][:, 0].tolist()) for one in cheapest_order(micro, 2, config)] == [{1}, {3}]
    apart = [micro_batch([([5 + 4 * j + i], [9 + j, i + 1, 3][: 1 + i % 3]) for i in range(4)]) for j in range(2)]
    width = max(one["completion_ids"].size(1) for one in apart)
    assert all(one["completion_ids"].size(1) == width for one in apart)
    for ours, theirs in zip(cheapest_order(apart, 2, config), sort_by_length(apart, 2), strict=True):
        assert ours["completion_ids"].equal(theirs["completion_ids"])
    for ours, theirs in zip(cheapest_order(micro, 2, config, packs=False), sort_by_length(micro, 2), strict=True):
        assert ours["prompt_ids"].equal(theirs["prompt_ids"])
