from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from a2tgpo.signals.answer_likelihood import (
    AnswerScaffold,
    AnswerScorer,
    fused_forward,
    fused_reading,
    output_head,
    plain_forward,
)
from a2tgpo.signals.answer_likelihood.forward import Pick


@pytest.fixture
def ids_and_labels():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(2, 48, (3, 9), generator=generator)
    labels = ids.masked_fill(torch.rand(3, 9, generator=generator) < 0.5, -100)
    labels[:, 4] = -100  # a column no row reads
    labels[0, 0] = ids[0, 0]  # has no predictor
    return ids, labels


@torch.no_grad()
def by_hand(model, ids, labels, temperature=1.0):
    logps = torch.log_softmax(model(ids).logits.double() / temperature, dim=-1)
    expected = torch.zeros(labels.shape, dtype=torch.float64)
    for row, column in (labels != -100).nonzero().tolist():
        if column > 0:
            expected[row, column] = logps[row, column - 1, labels[row, column]]
    return expected.float()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere", "granite", "mamba", "qwen3_next"])
def test_plain_forward_equals_the_definition(make_model, ids_and_labels, name, temperature):
    """Each label gets its log-softmax entry one column earlier; unread columns and column 0 get 0. The soft cap of
    Gemma 2 and the logit scales of Cohere and Granite enter as in the models' own logits."""
    model = make_model(name)
    with torch.no_grad():
        logps = plain_forward(model, temperature)(*ids_and_labels)
    torch.testing.assert_close(logps, by_hand(model, *ids_and_labels, temperature), atol=1e-5, rtol=1e-5)


def test_plain_forward_runs_the_head_only_where_needed(make_model, ids_and_labels, monkeypatch):
    """The output head sees the positions that predict a label, a few at a time."""
    monkeypatch.setattr(output_head, "LOGITS_AT_ONCE", 4 * 48)
    model = make_model("llama")
    forward, positions = plain_forward(model), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: positions.append(len(inputs[0])))
    ids, labels = ids_and_labels
    forward(ids, labels)
    n_read = int((labels[:, 1:] != -100).sum())
    assert positions == [4] * (n_read // 4) + [n_read % 4] * (n_read % 4 > 0)


class _LargestLogits(TorchDispatchMode):
    """Remembers the most elements of any tensor that was made with a vocabulary's dimension."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary, self.elements = vocabulary, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and self.vocabulary in tensor.shape:
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_logits_never_exist_for_a_whole_batch(make_model, batch, tokenizer, monkeypatch, kind):
    """While a batch is scored, no tensor with the vocabulary's dimension is larger than the bound on logits or the
    weights, far below batch × columns × vocabulary and below the positions that are read × vocabulary."""
    kernels = pytest.importorskip("trl.kernels.chunked_logprob")
    utils = pytest.importorskip("trl.trainer.utils")
    vocabulary, at_once = 2003, 8
    monkeypatch.setattr(output_head, "LOGITS_AT_ONCE", at_once * vocabulary)
    monkeypatch.setattr(kernels, "TOKEN_CHUNK_SIZE", at_once)
    monkeypatch.setattr(utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", vocabulary)
    model = make_model("llama", vocab_size=vocabulary, hidden_size=at_once)
    utils.add_fused_lm_head(model)
    forward = plain_forward(model) if kind == "plain" else fused_forward(model)
    with _LargestLogits(vocabulary) as largest:
        AnswerScorer(AnswerScaffold("it is ( {answer} )"), tokenizer).score(forward, model.config, **vars(batch))
    assert largest.elements == at_once * vocabulary
    assert at_once < int((batch.model_mask * batch.completion_mask).sum())


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_nothing_else_than_the_read_positions_reaches_the_head(make_model, ids_and_labels, monkeypatch, kind):
    """Off the GPU TRL's head would score every position it is handed; it is handed the hidden states that predict a
    label, as is our own."""
    utils = pytest.importorskip("trl.trainer.utils")
    model = make_model("llama")
    utils.add_fused_lm_head(model)
    ids, labels = ids_and_labels
    forward = plain_forward(model) if kind == "plain" else fused_forward(model)
    with FlopCounterMode(display=False) as read:
        forward(ids, labels)
    with FlopCounterMode(display=False) as backbone:
        model.model(ids)
    n_read = int((labels[:, 1:] != -100).sum())
    assert read.get_total_flops() - backbone.get_total_flops() == 2 * n_read * 32 * 48


def test_an_unknown_output_head_is_refused(make_model):
    """A model that changes its logits by a rule its config does not name stops plain_forward with a way out."""
    model = make_model("llama")
    plain = model.forward

    def halved(**model_kwargs):
        output = plain(**model_kwargs)
        output.logits = output.logits / 2
        return output

    model.forward = halved
    with pytest.raises(ValueError, match="fused_forward"):
        plain_forward(model)


@pytest.mark.parametrize("kind", ["plain", "fused"])
def test_without_labels_all_is_zero(make_model, kind):
    """A batch in which nothing is read still runs the model, as a sharded one must, and gives zeros."""
    utils = pytest.importorskip("trl.trainer.utils")
    model, calls = make_model("llama"), []
    utils.add_fused_lm_head(model)
    forward = plain_forward(model) if kind == "plain" else fused_forward(model)
    model.model.register_forward_hook(lambda *_: calls.append(1))
    assert forward(torch.full((2, 4), 5), torch.full((2, 4), -100)).tolist() == [[0.0] * 4] * 2
    assert calls == [1]


def test_learned_positions_are_honoured(make_model, ids_and_labels):
    """`position_ids` reach the model: GPT-2's absolute positions give other numbers when shifted."""
    model = make_model("gpt2")
    ids, labels = ids_and_labels
    forward = plain_forward(model)
    shifted = forward(ids, labels, position_ids=torch.arange(9).expand(3, 9) + 5)
    assert not torch.allclose(forward(ids, labels), shifted, atol=1e-3)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
def test_fused_forward_equals_plain_forward_and_fills_the_cache(make_model, ids_and_labels, name):
    """TRL's fused head gives the same log-probabilities, and a cache passed to it is filled in place."""
    trl = pytest.importorskip("trl.trainer.utils")
    model = make_model(name)
    caches = DynamicCache(config=model.config), DynamicCache(config=model.config)
    with torch.no_grad():
        plain = plain_forward(model, 0.9)(*ids_and_labels, past_key_values=caches[0])
        trl.add_fused_lm_head(model, temperature=0.9)
        fused = fused_forward(model)(*ids_and_labels, past_key_values=caches[1])
    torch.testing.assert_close(fused, plain, atol=1e-5, rtol=1e-5)
    assert [cache.get_seq_length() for cache in caches] == [9, 9]
    for one, other in zip(*(cache.layers for cache in caches), strict=True):
        torch.testing.assert_close(one.keys, other.keys)


def test_entropies_are_those_of_the_distributions_the_labels_were_drawn_from(make_model, ids_and_labels):
    """At each label −Σ p log p of the softmax one column earlier, with the gradient of the log-probabilities; a head
    that was added without entropies gives none."""
    trl = pytest.importorskip("trl.trainer.utils")
    model, bare = make_model("llama"), make_model("llama")
    ids, labels = ids_and_labels
    logps = model(ids).logits.log_softmax(-1)
    expected = torch.nn.functional.pad(-(logps.exp() * logps).sum(-1)[:, :-1], (1, 0))
    trl.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    trl.add_fused_lm_head(bare)
    found = fused_reading(model, ids, labels)
    is_read = torch.nn.functional.pad(labels[:, 1:] != -100, (1, 0))
    torch.testing.assert_close(found.entropies, expected * is_read, atol=1e-5, rtol=1e-5)
    assert fused_reading(bare, ids, labels).entropies is None
    rows, columns = is_read.nonzero(as_tuple=True)
    by_hand = logps[rows, columns - 1, ids[rows, columns]].sum()
    weights = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(found.logps.sum(), weights), torch.autograd.grad(by_hand, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_nothing_read_is_a_zero_with_a_gradient(make_model):
    """A micro-batch without a token of the policy's has a backward pass all the same, and teaches nothing."""
    trl = pytest.importorskip("trl.trainer.utils")
    model = make_model("llama")
    trl.add_fused_lm_head(model)
    fused_forward(model)(torch.full((2, 4), 5), torch.full((2, 4), -100)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_fused_forward_goes_through_what_wraps_the_model(make_model, ids_and_labels):
    """A wrapper's own forward runs (a sharded model gathers its weights there), and the result is the model's."""
    trl = pytest.importorskip("trl.trainer.utils")
    model = make_model("llama")
    trl.add_fused_lm_head(model)
    wrapped = torch.nn.Sequential(torch.nn.Identity(), model)  # any module that holds the model
    calls = []

    def forward(**model_kwargs):
        calls.append(1)
        return model(**model_kwargs)

    wrapped.forward = forward
    assert fused_forward(wrapped)(*ids_and_labels).equal(fused_forward(model)(*ids_and_labels))
    assert calls == [1]
    assert not model.model._forward_hooks


def test_fused_forward_runs_inside_the_autocast_it_is_given(make_model, ids_and_labels):
    """The context is entered once per call, around the model, and the result is float32 again."""
    trl = pytest.importorskip("trl.trainer.utils")
    model = make_model("llama")
    trl.add_fused_lm_head(model)
    with torch.no_grad():
        low = fused_forward(model, lambda: torch.autocast("cpu", torch.bfloat16))(*ids_and_labels)
        full = fused_forward(model)(*ids_and_labels)
    assert low.dtype == torch.float32
    assert not low.equal(full)
    torch.testing.assert_close(low, full, atol=0.3, rtol=0.1)


def test_temperature_must_be_positive(make_model):
    """Zero would divide by zero; the error says what 1.0 does."""
    with pytest.raises(ValueError, match="temperature is 0"):
        plain_forward(make_model("llama"), temperature=0)


def test_rows_picked_twice_have_one_gradient() -> None:
    """The gradient of 4,000 rows picked from 200, in two threads: indexing's own to rounding, and the same to the last
    bit in each of thirty passes."""
    draw = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(900, 128, generator=draw), torch.randn(4000, 128, generator=draw)
    index = torch.randint(0, 200, (4000,), generator=draw)

    def gradient(pick: Callable[[Tensor], Tensor]) -> Tensor:
        leaf = rows.clone().requires_grad_()
        (pick(leaf) * weight).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = [gradient(lambda leaf: Pick.apply(leaf, index)) for _ in range(30)]
        torch.testing.assert_close(found[0], gradient(lambda leaf: leaf[index]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], one) for one in found)
    assert torch.equal(Pick.apply(rows, index), rows[index])
