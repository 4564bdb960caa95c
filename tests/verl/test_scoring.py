"""Likelihoods on an engine's module: cached, as rows through its log-probability pass, and by the plain forward."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.verl.engine_forward import causal_model, module_forward
from a2tgpo.integrations.verl.queue_rows import RowOrder, as_rollouts
from a2tgpo.integrations.verl.row_scoring import answer_rows, rows_likelihood
from a2tgpo.pipeline import RolloutBatch
from a2tgpo.pipeline.likelihood import score_answers
from a2tgpo.signals.answer_likelihood import AnswerScaffold, AnswerScorer, plain_forward

TOKENIZER = build_tokenizer()
TEMPERATURE = 0.7


class Wrapper(nn.Module):
    """Stand for what an engine wraps a model in."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **kwargs: object) -> object:
        return self.module(**kwargs)


def policy() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).eval()


def batch() -> RolloutBatch:
    """Three rollouts of other lengths; the second answers at once."""
    generator = torch.Generator().manual_seed(1)
    masks = [[1, 1, 0, 0, 1, 0, 1, 1], [1, 1, 1], [1, 0, 0, 0, 1]]
    columns = {
        "prompts": [torch.randint(10, 200, (n,), generator=generator) for n in (5, 3, 7)],
        "responses": [torch.randint(10, 200, (len(mask),), generator=generator) for mask in masks],
        "response_mask": [torch.tensor(mask) for mask in masks],
    }
    return as_rollouts(
        columns,
        RowOrder([0, 1, 2], 1, 3),
        answers=[["bora", "mitu kelo"], ["mitu"], ["kelo"]],
        pad_id=0,
        end_ids=(),
        cut_last_result=False,
    )


def scorer(**options: object) -> AnswerScorer:
    return AnswerScorer(AnswerScaffold("<answer> {answer} </answer>"), TOKENIZER, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("alias", ["first", "best"])
@pytest.mark.parametrize("likelihood", ["probability", "log_probability"])
def test_cached_rows_and_plain_agree(alias: str, likelihood: str) -> None:
    """The wrapped module with a cache, rows through an engine's pass, and the scorer's own forward: to 1e-5."""
    model, rollouts, reads = policy(), batch(), scorer(alias=alias, likelihood=likelihood)
    wrapped = Wrapper(model)
    assert causal_model(wrapped) is model
    reference = score_answers(
        rollouts, reads, plain_forward(model, TEMPERATURE), model.config, rows_per_forward=3
    ).likelihood
    cached = score_answers(
        rollouts, reads, module_forward(wrapped, nullcontext, TEMPERATURE), model.config, rows_per_forward=2
    ).likelihood
    assert torch.allclose(cached, reference, rtol=1e-5, atol=1e-7)

    rows = answer_rows(rollouts, reads)
    with torch.no_grad():  # column i of an engine's pass is the log-probability of token i + 1, the last one's is noise
        logps = [
            (wrapped(input_ids=row.ids[None]).logits[0] / TEMPERATURE)  # type: ignore[attr-defined]
            .log_softmax(-1)
            .gather(-1, row.ids.roll(-1)[:, None])
            .squeeze(-1)
            for row in rows
        ]
    assert torch.allclose(rows_likelihood(rows, logps, rollouts, reads), reference, rtol=1e-5, atol=1e-7)
    assert len(rows) == (3 + 1 + 2 if alias == "first" else 2 * 3 + 1 + 2)


def test_the_output_head_sees_only_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole pass no more logits are made than answer tokens are read: never those of the trajectory."""
    model, seen = policy(), []
    model.lm_head.register_forward_hook(lambda module, args, output: seen.append(output.shape[-2]))
    rollouts, reads = batch(), scorer()
    score_answers(rollouts, reads, module_forward(model, nullcontext, 1.0), model.config, rows_per_forward=3)
    suffixes = reads.suffixes([task.answers for task in rollouts.tasks])
    n_answer = [sum(aliases[0].is_answer) for aliases in suffixes]
    counts = rollouts.boundaries.exists.sum(1).tolist()
    assert sum(seen) == sum(n * count for n, count in zip(n_answer, counts, strict=True))
