"""Rows that wait for a slow tool: they write what they would have written, and no other row waits with them."""

from __future__ import annotations

import random
from typing import Any

import pytest

from a2tgpo.integrations.trl.vllm_engine import TRLTokenEngine
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, Turn
from a2tgpo.rollout.hf_generate_engine import HFGenerateEngine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.lockstep_engine import LockstepEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.test_kv_cache_engine import Conversations, random_model, sampling
from tests.rollout.trl_vllm import VLLM

TOKENIZER = qwen_tokenizer()


def engine(kind: str) -> Any:
    """An engine of each kind over the same greedy policy."""
    model, config = random_model("qwen3"), sampling(TOKENIZER)
    if kind == "generate":
        return HFGenerateEngine(model, TOKENIZER, config, STOP_STRINGS)
    if kind == "lockstep":
        return LockstepEngine(TRLTokenEngine(VLLM(model, config)), STOP_STRINGS)
    n_slots, share = (3, 0.0) if kind == "cache reuse, 3 slots" else (64, 0.5)
    return KVCacheEngine(model, TOKENIZER, Sampler(model, config), STOP_STRINGS, n_slots, share)


class Slow(Conversations):
    """Holds each answer back for up to three calls; with no turns given it gives at least one."""

    def __init__(self, n_rows: int, seed: int) -> None:
        super().__init__(n_rows)
        self.delay = random.Random(seed)
        self.held: dict[int, tuple[int, Continuation | None]] = {}
        self.asked_in_vain = 0

    def __call__(self, turns: dict[int, Turn]) -> dict[int, Continuation | None]:  # type: ignore[override]
        answered = super().__call__(turns)
        self.held |= {row: (self.delay.randint(0, 3), answered.get(row)) for row in turns}
        self.asked_in_vain += not turns
        ready = [row for row, (calls, _) in self.held.items() if calls == 0]
        if not turns and not ready:
            ready = [min(self.held)]
        self.held = {row: (max(0, calls - 1), answer) for row, (calls, answer) in self.held.items()}
        given = {row: self.held.pop(row)[1] for row in ready}
        return dict.fromkeys(self.held) | {row: answer for row, answer in given.items() if answer is not None}


@pytest.mark.parametrize("kind", ["cache reuse", "cache reuse, 3 slots", "generate", "lockstep"])
@pytest.mark.parametrize("seed", [0, 1])
def test_waiting_changes_nothing_of_what_is_written(kind: str, seed: int) -> None:
    """Greedy conversations of up to four turns whose answers come late, in another order, or end the row late, are
    those whose answers come at once; no row is forgotten."""
    prompt = Conversations(11).play(engine("cache reuse"))
    late = Slow(11, seed)
    assert late.play(engine(kind)) == prompt
    assert late.asked_in_vain > 0 and not late.held


def test_a_row_writes_on_while_another_waits() -> None:
    """The first row's tool answers only after the second row has written three turns."""
    order: list[int] = []

    def take_turns(turns: dict[int, Turn]) -> dict[int, Continuation | None]:
        order.extend(turns)
        others = order.count(1)
        going: dict[int, Continuation | None] = {0: None} if others < 3 else {}
        if others < 3:
            going[1] = Continuation([40 + others], 3)
        return going

    engine("cache reuse")([Continuation([5, 6], 3), Continuation([7], 3)], take_turns)
    assert sorted(order) == [0, 1, 1, 1] and order[-1] == 1
