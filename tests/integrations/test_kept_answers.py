"""Batches for one update take their answer likelihoods from generation, others from a pass over the trajectories."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig, set_seed
from trl.models.utils import disable_gradient_checkpointing

from a2tgpo import A2TGPOTrainer
from a2tgpo.environments.environment import Action, StepResult
from a2tgpo.environments.episodes import EnvironmentPool
from a2tgpo.integrations.trl.generation_batch import GenerationBatch
from a2tgpo.integrations.trl.rollout_func import TagRollout
from a2tgpo.pipeline import RolloutBatch
from a2tgpo.pipeline.likelihood import score_answers
from a2tgpo.rollout.agent import Agent, RolloutLimits
from a2tgpo.rollout.kv_cache_engine import KVCacheEngine
from a2tgpo.rollout.turn_protocol import TagProtocol
from a2tgpo.signals.answer_likelihood import Scores, fused_forward
from tests.integrations.parts import Recorded, config, questions, qwen_tokenizer, states_in_cache, tiny_llama


class AlwaysSearching(TagProtocol):
    """Takes whatever the policy writes as a search."""

    def read(self, turn: list[int], before: list[int]) -> list[Action]:
        return [Action("act", "anything")]


class Library:
    """Answers once to three times, by the question, and ends the episode, with a last word or without."""

    last_word = ""

    def reset(self, row: Any) -> None:
        self.left = 2 + len(row["prompt"]) % 3

    def step(self, action: Action) -> StepResult:
        self.left -= 1
        return StepResult("The mentor of Kelo is bora.") if self.left else StepResult(self.last_word, done=True)


class Talkative(Library):
    """Says something that nobody answers."""

    last_word = "Come again."


def trainer(
    tmp_path: Path,
    peft_config: Any = None,
    library: type[Library] = Library,
    make: Callable[[Any], Any] = tiny_llama,
    **changes: Any,
) -> A2TGPOTrainer:
    """A random policy on two questions, generating through our own loop."""
    tokenizer = qwen_tokenizer()
    limits = RolloutLimits(max_completion_tokens=400, max_turn_tokens=12)
    environment = EnvironmentPool(library)
    agent = Agent(tokenizer, environment, limits, protocol=AlwaysSearching(tokenizer, environment.tools))
    model = make(tokenizer)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return A2TGPOTrainer(
        model,
        lambda completions, **_: [float(i % 2) for i in range(len(completions))],
        config(tmp_path, temperature=0.8, **changes),
        train_dataset=questions(4),
        processing_class=tokenizer,
        rollout_func=TagRollout(agent),
        peft_config=peft_config,
    )


def expected_of(made: A2TGPOTrainer, batch: RolloutBatch) -> Scores:
    """What a pass over the trajectories finds."""
    forward = fused_forward(made.model, made.accelerator.autocast)
    return score_answers(batch, made._scoring.scorer, forward, made.model.config, rows_per_forward=8)


@pytest.mark.parametrize(
    "options", [{}, {"answer_alias": "best"}, {"likelihood": "log_probability"}, {"steps_per_generation": 2}]
)
def test_a_batch_for_one_update_needs_no_pass_over_its_trajectories(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """With one update a batch the likelihoods come from generation, no old log-probabilities are computed, and both
    equal what the pass would have found; a batch that feeds two updates is scored by the pass, once."""
    made = trainer(tmp_path, **options)
    passes: list[Any] = []
    score = A2TGPOTrainer._score
    monkeypatch.setattr(
        A2TGPOTrainer, "_score", lambda self, *args, **options: passes.append(args) or score(self, *args, **options)
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    output = made._generate_and_score_completions([dict(made.train_dataset[i // 4]) for i in range(8)])

    one_update = options.get("steps_per_generation", 1) == 1
    assert len(passes) == (0 if one_update else 1)
    assert ("old_per_token_logps" in output) is not one_update
    (recorded,) = assigned
    expected, boundaries = expected_of(made, recorded.batch), recorded.batch.boundaries
    torch.testing.assert_close(recorded.signals.likelihood, expected.likelihood, atol=1e-4, rtol=0)
    assert boundaries.exists.equal(expected.boundaries.exists)
    assert boundaries.exists.sum(1).max() > 1
    assert boundaries.columns.equal(expected.boundaries.columns)


def test_a_last_word_is_scored_by_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, assigned: list[Recorded]
) -> None:
    """An observation that ends the episode is in no KV cache: the boundary after it is scored by a pass."""
    passes: list[Any] = []
    score = A2TGPOTrainer._score
    monkeypatch.setattr(
        A2TGPOTrainer, "_score", lambda self, *args, **options: passes.append(args) or score(self, *args, **options)
    )
    made = trainer(tmp_path, library=Talkative)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    made._generate_and_score_completions([dict(made.train_dataset[i // 4]) for i in range(8)])
    (recorded,) = assigned
    assert len(passes) == 1
    assert (recorded.batch.boundaries.is_process.sum(1) == recorded.batch.boundaries.n_turns).all()
    expected = expected_of(made, recorded.batch)
    torch.testing.assert_close(recorded.signals.likelihood, expected.likelihood, atol=1e-4, rtol=0)


def test_mixed_precision_reads_what_the_pass_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With float32 weights under bfloat16 autocast, TRL's default, keys, probes and head of generation are autocast's:
    a step goes through, and its likelihoods are the pass's to bfloat16 rounding."""
    found, expected = [], []
    read_scores = GenerationBatch.read_scores
    made = trainer(tmp_path, bf16=True)

    def compare(self: GenerationBatch, scorer: Any) -> Scores | None:
        scores = read_scores(self, scorer)
        assert scores is not None and self.rollouts is not None
        found.append(scores.likelihood)
        expected.append(expected_of(made, self.rollouts).likelihood)
        return scores

    monkeypatch.setattr(GenerationBatch, "read_scores", compare)
    made.train()
    assert len(found) == 1 and (found[0] > 0).sum() > 16
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0.04)


def test_adapters_keep_their_keys(tmp_path: Path, assigned: list[Recorded]) -> None:
    """LoRA with dropout, under gradient checkpointing: rollouts keep their keys in the model inside PEFT's shell, and
    the likelihoods are those of a pass, which dropout would have made another number each time."""
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    made = trainer(tmp_path, lora, gradient_checkpointing=True)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    made._generate_and_score_completions([dict(made.train_dataset[i // 4]) for i in range(8)])
    (recorded,) = assigned
    rollout_func: Any = made.rollout_func
    assert isinstance(rollout_func._generator, KVCacheEngine)
    with disable_gradient_checkpointing(made.model, made.args.gradient_checkpointing_kwargs):
        expected = expected_of(made, recorded.batch)
        with made.model.disable_adapter():
            base = expected_of(made, recorded.batch)
    torch.testing.assert_close(recorded.signals.likelihood, expected.likelihood, atol=1e-4, rtol=0)
    assert (expected.likelihood - base.likelihood).abs().max() > 1e-3


def test_the_reference_of_adapters_is_their_base(tmp_path: Path) -> None:
    """Gains scored by the frozen reference of a PEFT model, the base without its adapter, under gradient checkpointing:
    a step goes through and logs them."""
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "v_proj"])
    made = trainer(tmp_path, lora, gradient_checkpointing=True, process_signal="reference")
    made.train()
    assert math.isfinite(made.state.log_history[0]["gain/turn_1"])


def linear_attention(tokenizer: Any) -> Qwen3_5ForCausalLM:
    """A random model of Qwen3.5's build: a layer of linear attention and one of attention."""
    set_seed(0)
    return Qwen3_5ForCausalLM(
        Qwen3_5TextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            layer_types=["linear_attention", "full_attention"],
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


@states_in_cache
def test_states_are_kept_over_turns_and_answers_scored_by_a_pass(tmp_path: Path, assigned: list[Recorded]) -> None:
    """A model with linear attention writes its rollouts from kept states, which no longer know the turn boundaries: the
    answers take a pass, also with one update a batch."""
    made = trainer(tmp_path, make=linear_attention)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    made._generate_and_score_completions([dict(made.train_dataset[i // 4]) for i in range(8)])
    rollout_func: Any = made.rollout_func
    assert isinstance(rollout_func._generator, KVCacheEngine)
    (recorded,) = assigned
    expected = expected_of(made, recorded.batch)
    torch.testing.assert_close(recorded.signals.likelihood, expected.likelihood, atol=1e-4, rtol=0)
    assert recorded.batch.boundaries.exists.sum(1).max() > 1


def test_training_goes_on_from_what_generation_read(tmp_path: Path) -> None:
    """Two whole steps: the loss is finite, the policy moves, and seconds of the gain stand apart from generation's."""
    made = trainer(tmp_path, max_steps=2)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    made.train()
    logged = [entry for entry in made.state.log_history if "loss" in entry]
    assert all(math.isfinite(entry["loss"]) for entry in logged)
    assert all(entry["seconds/gain"] > 0 and entry["seconds/generation"] > 0 for entry in logged)
    assert all("seconds/old_logps" not in entry for entry in logged)
    assert any(not before[name].equal(p) for name, p in made.model.named_parameters())
