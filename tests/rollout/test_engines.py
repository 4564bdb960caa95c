"""Generation with transformers, both ways: every row stops where it should, within its budget, as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, GenerationEngine, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine, end_tokens, transformers_engine, why_no_cache_reuse
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.rollout.types import Termination
from tests.integrations.parts import qwen_tokenizer, tiny_llama
from tests.rollout.scripted import ScriptedEngine


class Chain(LlamaForCausalLM):
    """A Llama, cache and all, whose next token is a fixed function of its last one."""

    def follow(self, successors: dict[int, int]) -> Chain:
        self.successors = torch.arange(self.config.vocab_size)
        for token, successor in successors.items():
            self.successors[token] = successor
        return self

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = super().forward(input_ids=input_ids, **kwargs)
        last = input_ids[:, -output.logits.size(1) :]
        output.logits = torch.nn.functional.one_hot(self.successors[last], self.config.vocab_size).float() * 100
        return output


def chain(tokenizer: PreTrainedTokenizerBase, *texts: list[int]) -> Chain:
    """A policy that, after the first token of any of `texts`, writes the rest of it, then its last token for ever."""
    model = Chain(tiny_llama(tokenizer).config)
    return model.follow({a: b for ids in texts for a, b in pairwise(ids)})


@pytest.fixture(params=["cache reuse", "generate"])
def backend(request: Any) -> Callable[..., GenerationEngine]:
    """Makes a backend of either kind, greedy unless told otherwise."""

    def make(model: Any, tokenizer: Any, *, rows: int = 256, **options: Any) -> GenerationEngine:
        config = GenerationConfig(
            **({"do_sample": False} | options), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
        )
        if request.param == "generate":
            return HFGenerateEngine(model, tokenizer, config, STOP_STRINGS, rows)
        return KVCacheEngine(model, tokenizer, Sampler(model, config), STOP_STRINGS, rows)

    return make


def one_turn(backend: GenerationEngine, contexts: list[list[int]], budgets: list[int]) -> list[list[int]]:
    """The first turn of each context."""
    turns: dict[int, list[int]] = {}

    def take_turns(finished: dict[int, Turn]) -> dict[int, Continuation]:
        assert not turns.keys() & finished.keys()
        turns.update({row: turn.ids for row, turn in finished.items()})
        return {}

    backend([Continuation(ids, budget) for ids, budget in zip(contexts, budgets, strict=True)], take_turns)
    return [turns[row] for row in range(len(contexts))]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of `text` alone."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """The generated world's tokenizer: a tag is one token, padding is not the end of sequence."""
    return build_tokenizer()


@pytest.fixture(scope="module")
def bytes_() -> PreTrainedTokenizerFast:
    """A token per byte: a tag is nine tokens, padding is not the end of sequence."""
    return qwen_tokenizer()


def merging() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the tokens `>\\n` and `>.`, as most have, whose padding is its end of sequence."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(">", "Ċ"), (">", ".")]
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = Tokenizer(BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|end|>",
        padding_side="left",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
    )


def test_a_tag_of_many_tokens_ends_its_row_and_no_other(backend: Any, bytes_: Any) -> None:
    """Rows of one batch end at `</search>`, at `</answer>`, at the end of sequence and at their budget, each exactly
    there, although the batch runs on for the longest: no token of padding, no token past the tag."""
    search, answer = encode(bytes_, "x</search>!"), encode(bytes_, "y</answer>!")
    eos = bytes_.eos_token_id
    # Both closing tags go through "/" and ">": their letters decide, so each is tried in a model of its own.
    for text, start in ((search, "x"), (answer, "y")):
        model = chain(bytes_, text, [*encode(bytes_, "q1"), eos], encode(bytes_, "zz"))
        contexts = [encode(bytes_, f"some {c}") for c in (start, "q", "z", start)]
        turns = one_turn(backend(model, bytes_), contexts, [30, 30, 14, 4])
        assert turns[0] == text[1:-1]
        assert turns[1] == [*encode(bytes_, "1"), eos]
        assert turns[2] == encode(bytes_, "z") * 14
        assert turns[3] == text[1:5]


def test_a_tag_of_one_token_ends_its_row(backend: Any, words: Any) -> None:
    """With a tokenizer that has the tag as one token, the row ends with it."""
    turn = encode(words, "<search> kelo </search>")
    model = chain(words, [*turn, *encode(words, "mitu")])
    long = encode(words, "mentor mentor")
    assert one_turn(backend(model, words), [turn[:1], long], [20, 9]) == [turn[1:], long[:1] * 9]


def test_a_tag_in_the_context_ends_nothing(backend: Any, bytes_: Any) -> None:
    """Earlier turns and results hold closing tags; only one that is being written ends a turn."""
    model = chain(bytes_, encode(bytes_, "zz"))
    contexts = [encode(bytes_, "</search>z"), encode(bytes_, "<search>a</search>\n</result>\nz")]
    assert one_turn(backend(model, bytes_), contexts, [3, 3]) == [encode(bytes_, "zzz")] * 2


def test_a_token_that_goes_past_the_tag_is_kept(backend: Any) -> None:
    """Where the last token holds the tag's end and more, the row ends with that token, whole, and the padding behind
    it, which is the end of sequence, is cut: what was sampled is what is trained on."""
    tokenizer = merging()
    for tail in (">\n", ">."):
        text = encode(tokenizer, f"x</search{tail}")
        assert tokenizer.decode(text[-1:]) == tail
        model = chain(tokenizer, [*text, *encode(tokenizer, "!")], encode(tokenizer, "zz"))
        turns = one_turn(backend(model, tokenizer), [text[:1], encode(tokenizer, "z")], [30, 25])
        assert turns == [text[1:], encode(tokenizer, "z") * 25]


@pytest.mark.parametrize("tail", [">\n", ">."])
def test_the_agent_reads_a_turn_that_goes_past_its_tag(tail: str) -> None:
    """What stands past the tag is no fault of format; the sampled ids are kept as they are and closed."""
    tokenizer = merging()
    turn = encode(tokenizer, f"<think>a</think><search>b</search{tail}")
    agent = SearchAgent(tokenizer, lambda queries: [], RolloutLimits(max_searches=0))
    (rollout,) = agent.run(["Who?"], ScriptedEngine(tokenizer, [[turn]]))
    assert rollout.termination is Termination.OUT_OF_TURNS
    assert rollout.completion_ids == [*turn, tokenizer.eos_token_id]
    assert rollout.model_mask == [1] * len(turn) + [0]


def test_the_end_of_sequence_is_kept_where_it_is_padding_too(backend: Any) -> None:
    """A row that sampled the end of sequence keeps exactly one, though the padding behind it is the same token."""
    tokenizer = merging()
    eos = tokenizer.eos_token_id
    model = chain(tokenizer, [*encode(tokenizer, "q1"), eos], encode(tokenizer, "zz"))
    turns = one_turn(backend(model, tokenizer), [encode(tokenizer, "q"), encode(tokenizer, "z")], [30, 12])
    assert turns == [[*encode(tokenizer, "1"), eos], encode(tokenizer, "z") * 12]


@pytest.mark.parametrize("rows", [256, 3])
def test_a_batch_is_its_rows(backend: Any, bytes_: Any, rows: int) -> None:
    """Greedy turns of a batch of contexts of many lengths equal those of each context alone, in the order given: left
    padding, sorting by length and the neighbours' budgets change nothing."""
    model = tiny_llama(bytes_, seed=3)
    texts = ["aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "b", "cccc cccc", "d" * 60, "ee", "f? f! f.", "g" * 17]
    contexts, budgets = [encode(bytes_, text) for text in texts], [9, 4, 12, 1, 7, 12, 3]
    together = one_turn(backend(model, bytes_, rows=rows), contexts, budgets)
    alone = [one_turn(backend(model, bytes_), [c], [b])[0] for c, b in zip(contexts, budgets, strict=True)]
    assert together == alone
    assert [len(turn) for turn in together] == budgets
    assert len({tuple(turn[:3]) for turn in together}) > 1


def test_sampled_rows_respect_their_budgets(backend: Any, words: Any) -> None:
    """Sampling, each row stays within its own budget, and only its last token may end it."""
    torch.manual_seed(0)
    model = tiny_llama(words)
    budgets = [1, 30, 7, 2] * 16
    turns = one_turn(backend(model, words, do_sample=True, temperature=1.5), [[5]] * 64, budgets)
    ends = {words.eos_token_id, *words.convert_tokens_to_ids(list(STOP_STRINGS))}
    for turn, budget in zip(turns, budgets, strict=True):
        assert 1 <= len(turn) <= budget
        assert not ends & set(turn[:-1])
        assert len(turn) == budget or turn[-1] in ends | {words.pad_token_id}


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_restored(backend: Any, words: Any, training: bool) -> None:
    """Dropout is off while generating, and the mode afterwards is the one before, also after an error."""
    model = tiny_llama(words).train(training)
    modes: list[bool] = []
    model.model.register_forward_pre_hook(lambda *_: modes.append(model.training))
    generate = backend(model, words)
    one_turn(generate, [[5, 6]], [2])
    assert modes == [False, False] and model.training is training
    model.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        one_turn(generate, [[5, 6]], [2])
    assert model.training is training


def test_the_callers_sampling_parameters_stay_his(words: Any) -> None:
    """Length and stops are set on a copy: the generation config that is passed in is not changed."""
    config = GenerationConfig(do_sample=False, pad_token_id=words.pad_token_id, eos_token_id=words.eos_token_id)
    before, model = config.to_dict(), tiny_llama(words)
    one_turn(HFGenerateEngine(model, words, config, STOP_STRINGS), [[5, 6]], [2])
    one_turn(KVCacheEngine(model, words, Sampler(model, config), STOP_STRINGS), [[5, 6]], [2])
    assert config.to_dict() == before


def test_a_model_on_several_devices_reuses_no_cache(words: Any) -> None:
    """The KV cache lies on one device, the model's first; a model whose layers do not is left to `generate`."""
    model = tiny_llama(words)
    sampler = Sampler(model, GenerationConfig(pad_token_id=words.pad_token_id))
    assert why_no_cache_reuse(model, sampler) is None
    model.model.layers[1].to("meta")
    assert "several devices (cpu, meta)" in str(why_no_cache_reuse(model, sampler))


@pytest.mark.parametrize("who", ["tokenizer", "model", "config"])
def test_a_turn_ends_on_any_end_token(who: str) -> None:
    """The tokenizer's end token, one that the model declares, and one that the generation config asks for all end a
    turn, as in TRL's trainer, whose evaluations leave them to the backend."""
    tokenizer = qwen_tokenizer()
    ends = {
        "tokenizer": tokenizer.eos_token_id,
        "model": encode(tokenizer, "<|im_start|>")[0],
        "config": encode(tokenizer, "<|endoftext|>")[0],
    }
    start, last = encode(tokenizer, "a")[0], encode(tokenizer, "b")[0]
    model = chain(tokenizer, [start, last, ends[who], start])
    model.generation_config.eos_token_id = [ends["model"]]
    config = GenerationConfig(do_sample=False, eos_token_id=ends["config"])
    assert end_tokens(model, tokenizer, config) == list(ends.values())
    assert one_turn(transformers_engine(model, tokenizer, config, STOP_STRINGS), [[start]], [9]) == [[last, ends[who]]]
