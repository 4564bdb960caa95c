"""KV-cache reuse: the same tokens as reading everything anew, each token read once."""

from __future__ import annotations

import gc
import math
import random
import weakref
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    GPT2Config,
    Lfm2Config,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    RwkvConfig,
)

from a2tgpo.rollout import conversation
from a2tgpo.rollout.decoding import Sampler, TurnEnd
from a2tgpo.rollout.engine import Continuation, GenerationEngine, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine, transformers_engine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.rollout.slot_cache import SlotCache
from a2tgpo.rollout.slot_layout import Chunk
from tests.integrations.parts import qwen_tokenizer, states_in_cache, tiny_llama

SMALL = dict(
    vocab_size=265,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
ARCHITECTURES = {
    "qwen3": Qwen3Config(**SMALL),
    "qwen3-moe": Qwen3MoeConfig(
        **SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, output_router_logits=True
    ),
    "gpt2": GPT2Config(vocab_size=265, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=None),
}
WITH_STATES = {
    "lfm2": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "qwen3.5": Qwen3_5TextConfig(
        **SMALL,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token per byte."""
    return qwen_tokenizer()


def random_model(name: str, attention: str = "sdpa") -> Any:
    """A random model whose weights are large enough for its greedy text to wander."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config((ARCHITECTURES | WITH_STATES)[name], attn_implementation=attention).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def sampling(tokenizer: Any, **options: Any) -> GenerationConfig:
    """Greedy unless told otherwise; never the padding token, at which `HFGenerateEngine` has to cut."""
    pad = tokenizer.pad_token_id
    return GenerationConfig(
        **({"do_sample": False, "suppress_tokens": [pad]} | options), pad_token_id=pad, eos_token_id=None
    )


class Conversations:
    """An environment with its own mind: rows have other lengths, budgets and numbers of turns, all fixed by the row."""

    def __init__(self, n_rows: int, seed: int = 0) -> None:
        self.draw = [random.Random(1000 * seed + row) for row in range(n_rows)]
        self.turns_left = [draw.randint(0, 3) for draw in self.draw]
        self.starts = [self._continuation(row, 30) for row in range(n_rows)]
        self.written: list[list[list[int]]] = [[] for _ in range(n_rows)]
        self.read = [[start.ids] for start in self.starts]

    def _continuation(self, row: int, longest: int) -> Continuation:
        draw = self.draw[row]
        return Continuation([draw.randrange(250) for _ in range(draw.randint(1, longest))], draw.randint(1, 12))

    def __call__(self, turns: dict[int, Turn]) -> dict[int, Continuation]:
        going = {}
        for row, turn in turns.items():
            self.written[row].append(turn.ids)
            if self.turns_left[row] > 0:
                self.turns_left[row] -= 1
                going[row] = self._continuation(row, 40)
                self.read[row].append(going[row].ids)
        return going

    def prefixes(self, row: int) -> list[list[int]]:
        """The row's context before each of its turns."""
        contexts: list[int] = []
        found = []
        for read, turn in zip(self.read[row], self.written[row], strict=True):
            found.append(contexts + read)
            contexts = contexts + read + turn
        return found

    def play(self, backend: GenerationEngine) -> list[list[list[int]]]:
        """The turns of each row."""
        backend(self.starts, self)
        return self.written


@pytest.mark.parametrize(
    ("name", "attention", "n_slots"),
    [
        ("qwen3", "sdpa", 5),
        ("qwen3", "eager", 64),
        ("qwen3-moe", "sdpa", 64),
        ("gpt2", "eager", 5),
        ("gpt2", "sdpa", 64),
        pytest.param("lfm2", "sdpa", 5, marks=states_in_cache),
        pytest.param("qwen3.5", "sdpa", 64, marks=states_in_cache),
        pytest.param("qwen3.5", "eager", 5, marks=states_in_cache),
    ],
)
def test_conversations_equal_those_read_anew_at_every_turn(
    tokenizer: Any, name: str, attention: str, n_slots: int
) -> None:
    """Greedy conversations of up to four turns, on rotary and on learned positions, with grouped queries and experts,
    behind convolutions and linear attention, are token by token those of `generate` on the whole context; so too where
    rows must wait for a slot."""
    model, config = random_model(name, attention), sampling(tokenizer)
    backends = [
        KVCacheEngine(model, tokenizer, Sampler(model, config), STOP_STRINGS, n_slots, waiting_share)
        for waiting_share in (0.0, 0.4, 1.0)
    ]
    kept, later, together = (Conversations(23).play(backend) for backend in backends)
    assert kept == later == together
    model.config.output_router_logits = False  # `generate` itself fails with it
    anew = Conversations(23).play(HFGenerateEngine(model, tokenizer, config, STOP_STRINGS))
    assert kept == anew
    assert Counter(map(len, kept)).keys() == {1, 2, 3, 4}
    assert len({tuple(turn) for row in kept for turn in row}) > 20


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.7}, {"suppress_tokens": [*range(100, 200), 256]}])
def test_processors_see_what_generate_shows_them(tokenizer: Any, options: dict[str, Any]) -> None:
    """A penalty on tokens already in the row, and a ban, act as in `generate`, whatever the neighbours' lengths."""
    model = random_model("qwen3")
    config = sampling(tokenizer, **options)
    kept = Conversations(9).play(KVCacheEngine(model, tokenizer, Sampler(model, config), STOP_STRINGS))
    assert kept == Conversations(9).play(HFGenerateEngine(model, tokenizer, config, STOP_STRINGS))
    plain = Conversations(9).play(KVCacheEngine(model, tokenizer, Sampler(model, sampling(tokenizer)), STOP_STRINGS))
    assert kept != plain


def count_reading(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Gets, for each row of each forward, how many tokens it reads and how many it has keys of; nothing is guessed."""
    monkeypatch.setattr(conversation, "MOST_GUESSES", 0)
    read: list[tuple[int, int]] = []
    pack = Chunk.pack.__func__  # type: ignore[attr-defined]

    def counting(cls: Any, tokens: Any, stored: Any, slots: Any, device: Any) -> Chunk:
        read.extend((len(row), start) for row, start in zip(tokens, stored, strict=True))
        return pack(cls, tokens, stored, slots, device)

    monkeypatch.setattr(Chunk, "pack", classmethod(counting))
    return read


def test_every_token_is_read_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a whole batch each context token but a row's last is forwarded exactly once, and a prompt that eight rows
    share once for all of them (its last token apart, whose logits every row draws from for itself)."""
    read = count_reading(monkeypatch)
    model = random_model("qwen3")
    prompt = list(range(20, 60))
    budgets = [3, 9, 4, 5, 6, 7, 8, 2]
    sizes = [0] * 8

    def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation]:
        for row, turn in turns.items():
            sizes[row] += len(turn.ids)
        return {}

    config = sampling(tokenizer, do_sample=True)
    KVCacheEngine(model, tokenizer, Sampler(model, config), STOP_STRINGS)(
        [Continuation(prompt, budget) for budget in budgets], take_turns
    )
    assert sizes == budgets
    shared = len(prompt) + 7
    assert sum(n for n, _ in read) == shared + sum(size - 1 for size in sizes)
    assert [n for n, start in read if start == 0] == [len(prompt)]


def test_sampled_conversations_have_generates_distribution(tokenizer: Any) -> None:
    """400 sampled conversations each way: lengths of turns and their log-probabilities under the model do not differ
    (two-sample Kolmogorov-Smirnov), where a temperature of 1.3 instead of 1 would."""
    model = random_model("qwen3")
    ends = list(range(0, 250, 12))

    def sample(make: Any, temperature: float = 1.0) -> tuple[list[int], list[float]]:
        torch.manual_seed(7)
        config = GenerationConfig(do_sample=True, temperature=temperature, top_k=0, pad_token_id=260, eos_token_id=ends)
        finished: dict[int, Turn] = {}
        make(config)([Continuation([40, 41, 42], 12)] * 400, lambda turns: finished.update(turns) or {})
        turns = [turn.ids for turn in finished.values()]
        lengths, logps = [len(turn) for turn in turns], []
        with torch.no_grad():
            for turn in turns:
                logits = model(torch.tensor([[40, 41, 42, *turn]])).logits[0, 2:-1].log_softmax(-1)
                logps.append(logits.gather(1, torch.tensor(turn)[:, None]).mean().item())
        return lengths, logps

    def kept(config: Any) -> GenerationEngine:
        return KVCacheEngine(model, tokenizer, Sampler(model, config), (), 64)

    lengths, logps = sample(kept)
    other_lengths, other_logps = sample(lambda config: HFGenerateEngine(model, tokenizer, config, STOP_STRINGS))
    assert ks_2samp(lengths, other_lengths).pvalue > 0.01
    assert ks_2samp(logps, other_logps).pvalue > 0.01
    assert ks_2samp(logps, sample(kept, temperature=1.3)[1]).pvalue < 0.01


def test_first_tokens_have_the_models_probabilities(tokenizer: Any) -> None:
    """2,000 first tokens under top-k 5 fit the renormalised softmax of the model's five likeliest (χ²)."""
    model = random_model("qwen3")
    torch.manual_seed(0)
    config = GenerationConfig(do_sample=True, top_k=5, temperature=0.7, pad_token_id=260, eos_token_id=None)
    drawn: dict[int, Turn] = {}
    KVCacheEngine(model, tokenizer, Sampler(model, config), ())(
        [Continuation([40, 41, 42], 1)] * 2000, lambda finished: drawn.update(finished) or {}
    )
    with torch.no_grad():
        best = (model(torch.tensor([[40, 41, 42]])).logits[0, -1] / 0.7).topk(5)
    counts = Counter(turn.ids[0] for turn in drawn.values())
    assert counts.keys() <= set(best.indices.tolist())
    observed = [counts[token] for token in best.indices.tolist()]
    assert chisquare(observed, (2000 * best.values.double().softmax(0)).tolist()).pvalue > 0.001


def test_an_engine_is_chosen_by_what_it_can_serve(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that keeps a state elsewhere than in the cache, and sampling that looks at a row's length, are left to
    `generate`, and the log says why; everything else reuses its KV cache."""
    model = tiny_llama(tokenizer)
    plain = transformers_engine(model, tokenizer, sampling(tokenizer, do_sample=True, top_p=0.9), STOP_STRINGS)
    assert isinstance(plain, KVCacheEngine)
    ngrams = sampling(tokenizer, no_repeat_ngram_size=3)
    assert isinstance(transformers_engine(model, tokenizer, ngrams, STOP_STRINGS), HFGenerateEngine)
    assert "NoRepeatNGram" in caplog.text
    beams = sampling(tokenizer, num_beams=2)
    assert isinstance(transformers_engine(model, tokenizer, beams, STOP_STRINGS), HFGenerateEngine)
    sliding = Qwen3Config(**SMALL, use_sliding_window=True, sliding_window=8, max_window_layers=0)
    own_cache = RwkvConfig(vocab_size=265, hidden_size=32, num_hidden_layers=2, context_length=64)
    for architecture, engine in ((sliding, KVCacheEngine), (own_cache, HFGenerateEngine)):
        made = AutoModelForCausalLM.from_config(architecture)
        assert isinstance(transformers_engine(made, tokenizer, sampling(tokenizer), STOP_STRINGS), engine)
    assert "keeps what came before elsewhere" in caplog.text
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda self, input_ids=None: None)
    assert isinstance(transformers_engine(model, tokenizer, sampling(tokenizer), STOP_STRINGS), HFGenerateEngine)
    assert "logits_to_keep" in caplog.text


@states_in_cache
@pytest.mark.parametrize("name", sorted(WITH_STATES))
def test_states_are_kept(tokenizer: Any, name: str) -> None:
    """Convolutions and linear attention are served by the engine that reads every token once."""
    made = transformers_engine(random_model(name), tokenizer, sampling(tokenizer), STOP_STRINGS)
    assert isinstance(made, KVCacheEngine)


@pytest.mark.parametrize("stop", ["", "done ", "</search>\n", "fin·"])
def test_a_stop_string_must_end_visibly(tokenizer: Any, stop: str) -> None:
    """The search for a turn's end reads only tokens with the stop string's last character, which must be spelled as
    itself in every vocabulary."""
    with pytest.raises(ValueError, match="must end in a visible ASCII character"):
        TurnEnd(tokenizer, [stop], None)


def test_a_stop_string_is_found_wherever_tokens_split_it(tokenizer: Any) -> None:
    """Fed token by token, a turn ends at the token that completes the tag and at no other."""
    ended = TurnEnd(tokenizer, STOP_STRINGS, tokenizer.eos_token_id)
    turn = tokenizer("a > b </think> <search> c </search>", add_special_tokens=False)["input_ids"]
    assert [ended(turn[:n]) for n in range(1, len(turn) + 1)] == [False] * (len(turn) - 1) + [True]
    assert ended([*turn[:4], tokenizer.eos_token_id])


def test_rows_may_start_from_nothing_but_one_token(tokenizer: Any) -> None:
    """The shortest context there is, alone and many times, and an empty batch."""
    model = random_model("gpt2")
    backend = KVCacheEngine(model, tokenizer, Sampler(model, sampling(tokenizer)), STOP_STRINGS)
    turns: dict[int, Turn] = {}
    backend([Continuation([9], 4)] * 3, lambda finished: turns.update(finished) or {})
    assert turns[0] == turns[1] == turns[2] and len(turns[0].ids) == 4
    backend([], lambda finished: pytest.fail("nothing to take"))
    assert math.isfinite(model(torch.tensor([[9]])).logits.sum().item())


def test_memory_of_the_cache_is_freed_with_the_batch() -> None:
    """No circle of references holds a cache: its memory goes with the last that uses it, not when Python collects."""
    cache = SlotCache(DynamicCache(config=ARCHITECTURES["qwen3"]).layers)
    gone = weakref.ref(cache)
    gc.disable()
    try:
        del cache
        assert gone() is None
    finally:
        gc.enable()
