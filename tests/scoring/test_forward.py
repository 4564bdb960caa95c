import pytest
import torch
from transformers import DynamicCache

from a2tgpo.scoring import fused_forward, plain_forward


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
def test_plain_forward_equals_the_definition(make_model, ids_and_labels, temperature):
    """Each label gets its log-softmax entry one column earlier; unread columns and column 0 get 0."""
    model = make_model("llama")
    with torch.no_grad():
        logps = plain_forward(model, temperature)(*ids_and_labels)
    torch.testing.assert_close(logps, by_hand(model, *ids_and_labels, temperature), atol=1e-5, rtol=1e-5)


def test_plain_forward_runs_the_head_only_where_needed(make_model, ids_and_labels):
    """The output head sees exactly the columns that predict a label of some row."""
    model, shapes = make_model("llama"), []
    model.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    ids, labels = ids_and_labels
    plain_forward(model)(ids, labels)
    assert shapes == [(3, int((labels[:, 1:] != -100).any(0).sum()), 32)]


def test_plain_forward_without_labels_is_all_zero(make_model):
    """A batch in which nothing is read gives zeros instead of an error."""
    ids = torch.full((2, 4), 5)
    logps = plain_forward(make_model("llama"))(ids, torch.full((2, 4), -100))
    assert logps.tolist() == [[0.0] * 4] * 2


def test_plain_forward_on_a_model_that_keeps_all_logits(make_model, ids_and_labels):
    """A model whose forward takes no `logits_to_keep` gives the same numbers from its full logits."""
    model = make_model("llama")

    class Whole:
        config = model.config

        def forward(self, input_ids, use_cache=None):
            return model(input_ids, use_cache=use_cache)

        __call__ = forward

    with torch.no_grad():
        logps = plain_forward(Whole())(*ids_and_labels)
    torch.testing.assert_close(logps, by_hand(model, *ids_and_labels), atol=1e-5, rtol=1e-5)


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
