"""Everything private of TRL that the trainer touches, pinned: a TRL release that moves one fails here, with its name.

`A2TGPOTrainer` overrides methods TRL does not promise to keep. These tests read TRL itself, not our code.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from transformers import DynamicCache
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler, add_fused_lm_head

from tests.integrations.parts import qwen_tokenizer, tiny_llama

OVERRIDDEN = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_generate": ["self", "prompts"],
    "_generate_single_turn": [
        "self",
        "prompt_ids",
        "images",
        "multimodal_fields",
        "num_generations",
        "has_tool_images",
    ],
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_compute_loss": ["self", "model", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "log": ["self", "logs", "start_time"],
}


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_methods_keep_their_signature(name: str) -> None:
    """Each method we override still exists and takes what we pass on."""
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == OVERRIDDEN[name]


def test_the_log_probability_method_takes_what_we_read() -> None:
    """`_get_per_token_logps_and_entropies` starts with model, ids, mask, length, and knows `compute_entropy`."""
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]
    assert "compute_entropy" in parameters


def test_generate_returns_the_tool_mask_third() -> None:
    """`_generate` returns eight things, the tool mask at index 2, filled from `env_mask` or the tool loop."""
    source = inspect.getsource(GRPOTrainer._generate)
    assert "return prompt_ids, completion_ids, tool_mask, completions, logprobs, extra_fields, images" in source
    assert 'tool_mask = extra_fields.pop("env_mask", None)' in source


def test_the_tool_loop_goes_on_in_order_from_what_was_written() -> None:
    """TRL asks for the next turn of the rollouts that go on, in their order, each from its own tokens and the tools'
    answer, and cuts what would exceed `max_completion_length`: `ToolTurns` finds them by it."""
    source = inspect.getsource(GRPOTrainer._tool_call_loop)
    assert "prompt_ids[idx_with_tool] + completion_ids[idx_with_tool] + suffix_ids" in source
    assert "idxs_with_tool = [idx for idx, o in zip(idxs_with_tool, overlong, strict=True) if not o]" in source
    assert "idxs_with_tool = [idx for idx, tool_call in zip(idxs_with_tool, tool_calls, strict=True)" in source
    assert "post_tool_ids[idx] = post_tool_ids[idx][:new_len]" in source
    assert "self._generate_single_turn(\n                prompt_completion_tool_ids," in source


def test_when_trl_computes_old_log_probabilities_itself() -> None:
    """The conditions `_several_updates` and `_corrects_vllm` repeat, and that the policy's pass comes before
    the reference's."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "generate_every = self.args.steps_per_generation * self.num_iterations" in source
    condition = source[source.index("if self.args.gradient_accumulation_steps % generate_every != 0 or (") :]
    assert "self.use_vllm and self.vllm_importance_sampling_correction" in condition[: condition.index(":")]
    assert 'output["importance_sampling_ratio"] = vllm_importance_sampling_ratio' in source
    assert source.index("old_per_token_logps, _, _ =") < source.index("ref_per_token_logps, _, _ =")
    assert source.index("ref_per_token_logps, _, _ =") < source.index("self._calculate_rewards(")


def test_where_trl_keeps_the_micro_batches() -> None:
    """`_prepare_inputs` fills `_buffered_inputs` with a generation's micro-batches, `steps_per_generation` of them, and
    returns the one that `_step` counts to."""
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "split_tensor_dict(generation_batch, self.args.steps_per_generation)" in source
    assert "self._buffered_inputs = [" in source
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in source


@pytest.mark.parametrize(
    "name",
    ["prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "ref_per_token_logps", "old_per_token_logps"],
)
def test_output_keys(name: str) -> None:
    """The batch dictionary has the keys the loss reads."""
    assert f'"{name}"' in inspect.getsource(GRPOTrainer._generate_and_score_completions)


@pytest.mark.parametrize(
    "name",
    [
        *("_metrics", "_tokenizer", "_is_vlm", "num_generations", "num_generations_eval", "reward_weights"),
        *("beta", "aux_loss_enabled", "num_iterations", "generation_config", "generation_kwargs", "rollout_func"),
        *("use_vllm", "vllm_generation", "temperature", "max_completion_length", "environment_factories"),
    ],
)
def test_attributes(name: str) -> None:
    """`GRPOTrainer.__init__` sets each attribute we read."""
    source = inspect.getsource(GRPOTrainer.__init__)
    assert f"self.{name} =" in source


def test_extra_rollout_fields_reach_the_rows() -> None:
    """Fields a `rollout_func` returns are written into the input rows before rewards, where our logs read them."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert source.index("inp[key] = values[i]") < source.index("self._calculate_rewards(")


def test_unscorable_rollouts_are_nan() -> None:
    """A reward of None becomes NaN, and TRL leaves rows that are NaN for every function out of the baseline."""
    assert "reward if reward is not None else torch.nan" in inspect.getsource(GRPOTrainer._calculate_rewards)


def test_a_prompts_rollouts_are_consecutive() -> None:
    """The sampler repeats each prompt `num_generations` times in a row, so row // num_generations is its group."""
    rows = list(RepeatSampler(range(6), mini_repeat_count=3, batch_size=2, repeat_count=1, shuffle=True, seed=1))
    assert all(len(set(rows[i : i + 3])) == 1 for i in range(0, len(rows), 3))


def test_the_fused_head_fills_a_cache_it_is_given() -> None:
    """`model(..., fused_lm_head=True, past_key_values=cache)` returns shifted log-probabilities and fills the cache,
    which is what lets one pass give old log-probabilities and keys."""
    tokenizer = qwen_tokenizer()
    model = tiny_llama(tokenizer)
    ids = torch.randint(0, 200, (2, 9))
    with torch.no_grad():
        expected = torch.log_softmax(model(input_ids=ids).logits, dim=-1)
        add_fused_lm_head(model, outputs=("log_probs", "entropy"))
        cache = DynamicCache(config=model.config)
        output = model(input_ids=ids, labels=ids, fused_lm_head=True, past_key_values=cache)
    assert cache.get_seq_length() == 9
    gathered = expected[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(output.log_probs, gathered, atol=1e-5, rtol=1e-5)


def test_the_defaults_our_configuration_builds_on() -> None:
    """Fields whose meaning we keep still exist in `GRPOConfig`."""
    names = set(GRPOConfig.__dataclass_fields__)
    assert names >= {
        *("epsilon", "epsilon_high", "loss_type", "importance_sampling_level", "scale_rewards", "delta", "beta"),
        *("multi_objective_aggregation", "off_policy_mask_threshold", "top_entropy_quantile", "entropy_coef"),
        *("use_adaptive_entropy", "use_bias_correction_kl", "vllm_importance_sampling_correction"),
        *("num_generations", "num_iterations", "steps_per_generation", "max_completion_length"),
    }
