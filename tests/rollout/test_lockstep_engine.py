"""The lockstep engine over TRL's adapter to a stand-in for vLLM, and over several processes."""

from __future__ import annotations

import pytest

from a2tgpo.integrations.trl.vllm_engine import TRLTokenEngine
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import Continuation, Turn
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.lockstep_engine import LockstepEngine
from a2tgpo.rollout.protocol import STOP_STRINGS
from tests.integrations.parts import qwen_tokenizer
from tests.rollout.test_kv_cache_engine import Conversations
from tests.rollout.trl_vllm import VLLM, random_policy


@pytest.fixture
def vllm() -> VLLM:
    return random_policy()


def test_conversations_equal_those_of_the_kv_cache_engine(vllm: VLLM) -> None:
    """The same environment gives the same greedy conversations, budgets of single rows included."""
    tokenizer = qwen_tokenizer()
    kept = KVCacheEngine(vllm.model, tokenizer, Sampler(vllm.model, vllm.config), STOP_STRINGS)
    assert Conversations(7).play(LockstepEngine(TRLTokenEngine(vllm), STOP_STRINGS)) == Conversations(7).play(kept)


def test_a_process_without_open_rows_keeps_up_with_the_others(vllm: VLLM) -> None:
    """Where another process has three prompts and a round more to go, this one sends three as well, in that round too,
    and takes only its own turns."""
    # What the other process has: open rows, then budgets, round by round.
    others = iter([3, 7, 1, 2, 0])
    engine = LockstepEngine(TRLTokenEngine(vllm), STOP_STRINGS, lambda here: max(here, next(others)))
    taken: list[dict[int, Turn]] = []
    engine([Continuation([5], 4)], lambda turns: taken.append(turns) or {})
    assert [(call["n"], call["max_tokens"]) for call in vllm.calls] == [(3, 7), (1, 2)]
    assert [list(turns) for turns in taken] == [[0]] and len(taken[0][0].ids) == 4
