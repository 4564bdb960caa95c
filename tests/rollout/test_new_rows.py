"""Rows that begin where others stand: the same text as if they had been there from the start, from shared keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import chisquare, ks_2samp

from a2tgpo.integrations.trl.vllm_engine import TRLTokenEngine
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, GenerationEngine, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.lockstep_engine import LockstepEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.test_kv_cache_engine import count_reading, random_model, sampling
from tests.rollout.trl_vllm import VLLM

TOKENIZER = qwen_tokenizer()
PROMPTS = [list(range(20 + 7 * i, 60 + 9 * i)) for i in range(3)]
RESULTS = [list(range(100, 117)), list(range(140, 165))]


@pytest.fixture(params=["cache reuse", "cache reuse, 2 slots", "generate", "vllm"])
def backend(request: Any) -> Callable[..., GenerationEngine]:
    """Makes a backend of each kind over a Qwen3 model, greedy unless told otherwise."""

    def make(**options: Any) -> GenerationEngine:
        model, config = random_model("qwen3"), sampling(TOKENIZER, **options)
        if request.param == "vllm":
            return LockstepEngine(TRLTokenEngine(VLLM(model, config)), STOP_STRINGS)
        if request.param == "generate":
            return HFGenerateEngine(model, TOKENIZER, config, STOP_STRINGS)
        return kept(n_slots=2 if "slots" in request.param else 64, **options)

    return make


def kept(n_slots: int = 64, **options: Any) -> KVCacheEngine:
    """The engine with KV-cache reuse, over the same model."""
    model = random_model("qwen3")
    return KVCacheEngine(model, TOKENIZER, Sampler(model, sampling(TOKENIZER, **options)), STOP_STRINGS, n_slots)


class Copies:
    """Conversations of three turns, of which copies begin at every boundary, also after the last turn.

    A copy has the context that its parent had there, so a greedy policy must write what the parent wrote.
    """

    def __init__(self) -> None:
        self.contexts = [list(prompt) for prompt in PROMPTS]
        self.turns: list[list[list[int]]] = [[] for _ in PROMPTS]
        self.parent: dict[int, tuple[int, int]] = {}

    def __call__(self, finished: dict[int, Turn]) -> dict[int, Continuation]:
        going = {}
        for row, turn in finished.items():
            depth = self._depth(row)
            self.contexts[row] = self.contexts[row] + turn.ids
            self.turns[row].append(turn.ids)
            copies = [] if row in self.parent else [(0, PROMPTS[row])] if depth == 2 else []
            if depth < 2:
                self.contexts[row] = self.contexts[row] + RESULTS[depth]
                going[row] = Continuation(RESULTS[depth], 9)
                copies = [(depth + 1, self.contexts[row])] * 2 if row not in self.parent else []
            for start, context in copies:
                going[len(self.contexts)] = Continuation(list(context), 9)
                self.parent[len(self.contexts)] = (row, start)
                self.contexts.append(list(context))
                self.turns.append([])
        return going

    def _depth(self, row: int) -> int:
        return self.parent.get(row, (0, 0))[1] + len(self.turns[row])

    def play(self, backend: GenerationEngine) -> Copies:
        """Until all have ended."""
        backend([Continuation(prompt, 9) for prompt in PROMPTS], self)
        return self


def test_a_greedy_copy_reproduces_its_parent(backend: Callable[..., GenerationEngine]) -> None:
    """Begun at the prompt, after the first result or after the second, with slots to spare or not, every copy writes
    its parent's turns to the end."""
    played = Copies().play(backend())
    assert len(played.parent) == 5 * len(PROMPTS)
    for copy, (parent, start) in played.parent.items():
        assert played.turns[copy] == played.turns[parent][start:]
    assert len({tuple(turn) for turns in played.turns for turn in turns}) == 3 * len(PROMPTS)


def test_backends_play_the_same_copies(backend: Callable[..., GenerationEngine]) -> None:
    """All backends write the same conversations."""
    reference, played = Copies().play(kept()), Copies().play(backend())
    assert [played.turns[row] for row in range(3)] == [reference.turns[row] for row in range(3)]


def test_a_copy_reads_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that begin where a row stands, at an earlier boundary of it, or at one of a row that has just ended, read
    the last token of their context and no other; all else is read once, by the parent."""
    read = count_reading(monkeypatch)
    prompt, result = PROMPTS[0], RESULTS[0]
    written: dict[int, list[int]] = {}

    def take_turns(finished: dict[int, Turn]) -> dict[int, Continuation]:
        written.update({row: written.get(row, []) + turn.ids for row, turn in finished.items()})
        if list(finished) == [0] and len(written[0]) == 5:
            full = Continuation(prompt + written[0] + result, 4)
            return {0: Continuation(result, 6), 1: full, 2: full, 3: Continuation(list(prompt), 4)}
        if 0 in finished:
            return {4: Continuation(prompt + written[0][:5] + result, 3)}
        return {}

    kept(do_sample=True)([Continuation(prompt, 5)], take_turns)
    assert {row: len(ids) for row, ids in written.items()} == {0: 5 + 6, 1: 4, 2: 4, 3: 4, 4: 3}
    parent = len(prompt) + 5 + len(result) + 5
    copies = 3 * (1 + 3) + (1 + 2)
    assert sum(n for n, _ in read) == parent + copies
    assert [n for n, start in read if start == 0] == [len(prompt)]


def test_a_copy_that_waits_shares_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one slot a copy of a row that ended begins from its keys nevertheless; one that has to wait for the slot
    begins from the keys of the row before it, as far as both have the same tokens."""
    read = count_reading(monkeypatch)
    prompt, result = PROMPTS[0], RESULTS[0]
    written: dict[int, list[int]] = {}

    def take_turns(finished: dict[int, Turn]) -> dict[int, Continuation]:
        written.update({row: turn.ids for row, turn in finished.items()})
        if list(finished) == [0]:
            return {1: Continuation(prompt + written[0], 4), 2: Continuation(prompt + result, 4)}
        return {}

    kept(n_slots=1)([Continuation(prompt, 5)], take_turns)
    assert [len(written[row]) for row in range(3)] == [5, 4, 4]
    assert [(n, start) for n, start in read if n > 1] == [(len(prompt), 0), (len(result), len(prompt))]
    # Row 0 wrote 5 tokens and read 4; row 1 reads its last one of the context and 3 of its own; row 2 its 3.
    assert sum(n for n, _ in read) == len(prompt) + 4 + (1 + 3) + len(result) + 3


def sampled(n: int, temperature: float, start: list[int], result: list[int] | None = None) -> list[list[int]]:
    """`n` turns after `start`; where a `result` is given, of copies of a row that began there and stands after it."""
    torch.manual_seed(3)
    backend = kept(n_slots=128, do_sample=True, temperature=temperature, top_k=5, suppress_tokens=None)
    turns: dict[int, list[int]] = {}

    def take_turns(finished: dict[int, Turn]) -> dict[int, Continuation]:
        turns.update({row: turn.ids for row, turn in finished.items()})
        if list(turns) != [0] or result is None:
            return {}
        return {row: Continuation(start + turns[0] + result, 6) for row in range(1, n + 1)}

    backend([Continuation(start, 6)] * (n if result is None else 1), take_turns)
    return list(turns.values())


def test_sampled_copies_have_the_models_distribution() -> None:
    """2,000 copies of one row: first tokens fit the model's softmax (χ²), and whole turns do not differ from those of
    rows that begin with that context (Kolmogorov-Smirnov on log-probabilities), where another temperature would."""
    model = random_model("qwen3")
    first, *copies = sampled(2000, 1.0, PROMPTS[0], RESULTS[0])
    context = PROMPTS[0] + first + RESULTS[0]
    with torch.no_grad():
        best = model(torch.tensor([context])).logits[0, -1].topk(5)
    counts = Counter(turn[0] for turn in copies)
    assert counts.keys() <= set(best.indices.tolist())
    expected = 2000 * best.values.double().softmax(0)
    assert chisquare([counts[token] for token in best.indices.tolist()], expected.tolist()).pvalue > 0.001

    def logps(turns: list[list[int]]) -> list[float]:
        rows = torch.tensor([context + turn for turn in turns])
        with torch.no_grad():
            logits = model(rows).logits[:, len(context) - 1 : -1].log_softmax(-1)
        return logits.gather(2, rows[:, len(context) :, None]).mean((1, 2)).tolist()

    ours = logps(copies[:400])
    assert ks_2samp(ours, logps(sampled(400, 1.0, context))).pvalue > 0.01
    assert ks_2samp(ours, logps(sampled(400, 3.0, context))).pvalue < 0.01
