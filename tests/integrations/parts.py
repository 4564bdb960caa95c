"""Small real parts: a byte-level tokenizer with Qwen3's chat template, random Llama policies, ready-made trainers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import trl
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.cache_utils import LinearAttentionLayer
from trl.trainer import utils

from a2tgpo import A2TGPOConfig, A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.errors import ToolError
from a2tgpo.integrations.trl import turn_credit_trainer
from a2tgpo.integrations.trl.plain_head import add_plain_head
from a2tgpo.integrations.trl.rollout_func import rollout_columns
from a2tgpo.integrations.trl.trl_contract import why_plain_head
from a2tgpo.pipeline import BatchCredit, RolloutBatch, TurnSignals
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import RolloutLimits, SearchAgent
from tests.rollout.scripted import ScriptedEngine

states_in_cache = pytest.mark.skipif(
    "number_of_states" not in inspect.signature(LinearAttentionLayer.__init__).parameters,
    reason="the caches of this transformers hold states in another way, and the engine reads contexts anew",
)
"""Mark what needs states of fixed size in the cache as transformers 5.23 has them."""


def qwen_tokenizer(texts: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """One token per byte, and per word of `texts`, Qwen3's special tokens, and its chat template as TRL ships it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({character: i for i, character in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if texts:
        backend.train_from_iterator(texts, BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    backend.decoder = decoders.ByteLevel()
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    plain = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
    backend.add_tokens([AddedToken(token, normalized=False) for token in plain])
    template = Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        chat_template=template.read_text(encoding="utf-8"),
        padding_side="left",
    )


def tiny_llama(tokenizer: Any, seed: int = 0) -> LlamaForCausalLM:
    """A random two-layer Llama over the tokenizer's vocabulary."""
    set_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=8192,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def add_head(model: Any) -> None:
    """Add TRL's fused output head, or ours where TRL's does not run."""
    if why_plain_head("cpu"):
        add_plain_head(model)
    else:
        utils.add_fused_lm_head(model, outputs=("log_probs", "entropy"))


def config(tmp_path: Path, **changes: Any) -> A2TGPOConfig:
    """A CPU configuration of 2 prompts × 4 rollouts, all in one update."""
    settings: dict[str, Any] = dict(
        output_dir=str(tmp_path / "out"),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=8,
        num_generations=4,
        gradient_accumulation_steps=1,
        max_steps=1,
        max_completion_length=400,
        learning_rate=1e-3,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return A2TGPOConfig(**(settings | changes))


def questions(n: int = 2) -> Dataset:
    """`n` questions whose gold answer is `bora`."""
    rows = [{"prompt": f"Who is the mentor of Kelo {'Mitu ' * i}?", "answer": ["bora", "bo"]} for i in range(n)]
    return Dataset.from_list(rows)


def failing_once() -> Callable[[list[str]], list[list[Any]]]:
    """A search that raises at its first call and finds nothing afterwards."""
    calls = iter([True])

    def search(queries: list[str]) -> list[list[Any]]:
        if next(calls, False):
            raise ToolError("down")
        return [[] for _ in queries]

    return search


class ScriptedRollout:
    """A `rollout_func` that plays written turns through our real agent loop, one script per prompt in turn."""

    def __init__(self, tokenizer: Any, scripts: list[list[str]], search: Any = None) -> None:
        hits = [Passage("p", "Kelo", "The mentor of Kelo is bora.")]
        self.agent = SearchAgent(
            tokenizer, search or (lambda queries: [hits for _ in queries]), RolloutLimits(max_completion_tokens=400)
        )
        self.scripts = scripts

    def __call__(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        scripts = [self.scripts[i % len(self.scripts)] for i in range(len(prompts))]
        return rollout_columns(self.agent.run(prompts, ScriptedEngine(self.agent.tokenizer, scripts)))


def scripted_trainer(tmp_path: Path, scripts: list[list[str]], **changes: Any) -> A2TGPOTrainer:
    """A trainer over the generated world's tokenizer whose rollouts are `scripts`."""
    tokenizer = build_tokenizer()
    search = changes.pop("search", None)
    reward = changes.pop("reward", exact_match_reward)
    dataset = changes.pop("dataset", questions())
    turn_signal, eval_dataset = changes.pop("turn_signal", None), changes.pop("eval_dataset", None)
    return A2TGPOTrainer(
        tiny_llama(tokenizer),
        reward,
        config(tmp_path, **changes),
        train_dataset=dataset,
        eval_dataset=eval_dataset,
        processing_class=tokenizer,
        rollout_func=ScriptedRollout(tokenizer, scripts, search),
        turn_signal=turn_signal,
    )


class Recorded(NamedTuple):
    """What the credit of one batch was assigned from, and what came of it."""

    batch: RolloutBatch
    signals: TurnSignals
    credit: BatchCredit


def record_credit(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Keep what the trainer hands to `assign_credit`, and its credit."""
    calls: list[Recorded] = []
    assign = turn_credit_trainer.assign_credit

    def recorded(batch: RolloutBatch, signals: TurnSignals, *rest: Any, **options: Any) -> BatchCredit:
        credit = assign(batch, signals, *rest, **options)
        calls.append(Recorded(batch, signals, credit))
        return credit

    monkeypatch.setattr(turn_credit_trainer, "assign_credit", recorded)
    return calls


def by_turn(batch: dict[str, Any], column: str, n_turns: int) -> torch.Tensor:
    """The value that the tokens of each turn share in a per-token column of TRL's batch; 0 where there is no turn."""
    ids, values = batch["turn_ids"], batch[column]
    pairs = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    rows = [[[value for t, value in row if t == turn] for turn in range(n_turns)] for row in pairs]
    assert all(len(set(found)) <= 1 for row in rows for found in row), "tokens of one turn differ"
    return torch.tensor([[float(found[0]) if found else 0.0 for found in row] for row in rows])
