"""Everything private of TRL that the trainer relies on, seen at work in a plain `GRPOTrainer`: a release of TRL that
moves one of them fails here, by name. These tests know nothing of TRL's source text, and of our code only the head
that stands in where TRL's does not run.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import DynamicCache
from trl import GRPOConfig, GRPOTrainer
from trl.trainer import utils
from trl.trainer.utils import RepeatSampler

from a2tgpo.integrations.trl.plain_head import give_head
from a2tgpo.integrations.trl.trl_contract import why_plain_head
from tests.integrations.parts import add_head, qwen_tokenizer, tiny_llama

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


def test_the_log_probability_method_takes_what_we_give(tmp_path: Path) -> None:
    """`_get_per_token_logps_and_entropies` takes model, ids, mask and length in this order, `batch_size` and
    `compute_entropy` by name, and returns log-probabilities, entropies and a third thing."""
    trainer = plain(tmp_path, rollout_func=written)
    ids = torch.tensor([[5, 9, 2, 7, 3], [4, 6, 2, 9, 1]])
    logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, torch.ones_like(ids), 3, batch_size=1, compute_entropy=True
    )
    expected = trainer.model(ids).logits.log_softmax(-1)[:, 1:-1]
    torch.testing.assert_close(logps, expected.gather(2, ids[:, 2:, None])[..., 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(entropies, -(expected.exp() * expected).sum(-1), atol=1e-4, rtol=1e-4)


ROWS = [{"prompt": [{"role": "user", "content": f"Who is {name}?"}], "answer": name} for name in ("Kelo", "Bora")]


def plain(tmp_path: Path, **parts: Any) -> GRPOTrainer:
    """TRL's own trainer of a tiny model: two prompts, four rollouts of each."""
    tokenizer = qwen_tokenizer()
    options = parts.pop("options", {})
    settings: dict[str, Any] = dict(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=8 // options.get("steps_per_generation", 1),
        num_generations=4,
        max_completion_length=60,
        report_to="none",
        gradient_checkpointing=False,
    )
    reward = parts.pop("reward", lambda completions, **_: [float(i % 2) for i in range(len(completions))])
    trainer = GRPOTrainer(
        tiny_llama(tokenizer),
        reward,
        GRPOConfig(**(settings | options)),
        train_dataset=Dataset.from_list(ROWS),
        processing_class=tokenizer,
        **parts,
    )
    give_head(trainer)  # TRL 1.15 has none that runs on a CPU
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def rows() -> list[dict[str, Any]]:
    return [dict(ROWS[i // 4]) for i in range(8)]


def written(prompts: list[Any], trainer: Any) -> dict[str, Any]:
    """A `rollout_func`: three tokens by the policy, two by an environment, one by the policy, a field of its own."""
    n = range(len(prompts))
    return {
        "prompt_ids": [[1, 2]] * len(prompts),
        "completion_ids": [[10 + i, 11, 12, 20, 21, 13] for i in n],
        "logprobs": None,
        "env_mask": [[1, 1, 1, 0, 0, 1]] * len(prompts),
        "rollout": [f"record {i}" for i in n],
    }


def test_generate_returns_eight_things(tmp_path: Path) -> None:
    """Prompt ids, completion ids, the tool mask (from `env_mask`), completions, log-probabilities, the rollout's own
    fields, and images, in this order."""
    generated = plain(tmp_path, rollout_func=written)._generate([row["prompt"] for row in rows()])
    prompt_ids, completion_ids, tool_mask, completions, logprobs, extra, images, tool_images = generated
    assert prompt_ids[0] == [1, 2] and completion_ids[1][0] == 11 and tool_mask[0] == [1, 1, 1, 0, 0, 1]
    assert len(completions) == 8 and logprobs is None and images is None and not any(tool_images)
    assert extra == {"rollout": [f"record {i}" for i in range(8)]}


def test_fields_of_a_rollout_reach_rows_and_rewards(tmp_path: Path) -> None:
    """What a `rollout_func` returns beside ids is in the rows, and among a reward's arguments."""
    seen: list[Any] = []

    def reward(completions: list[Any], rollout: list[str], **_: Any) -> list[float]:
        seen.extend(rollout)
        return [0.0] * len(completions)

    batch = rows()
    plain(tmp_path, rollout_func=written, reward=reward)._generate_and_score_completions(batch)
    assert [row["rollout"] for row in batch] == seen == [f"record {i}" for i in range(8)]


@pytest.mark.parametrize(("steps", "passes"), [(1, 0), (2, 1)])
def test_when_old_log_probabilities_are_asked_for(
    tmp_path: Path, steps: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where a batch feeds several updates; the policy's pass comes before the reference's and before rewards, and
    gets ids and mask of prompt and completion side by side, and the number of completion columns."""
    calls: list[Any] = []
    logps, rewards = GRPOTrainer._get_per_token_logps_and_entropies, GRPOTrainer._calculate_rewards

    def noted(self: Any, model: Any, ids: Any, mask: Any, columns: int, *args: Any, **kwargs: Any) -> Any:
        calls.append((model is self.model, tuple(ids.shape), tuple(mask.shape), columns))
        return logps(self, model, ids, mask, columns, *args, **kwargs)

    monkeypatch.setattr(GRPOTrainer, "_get_per_token_logps_and_entropies", noted)
    monkeypatch.setattr(
        GRPOTrainer, "_calculate_rewards", lambda self, *args: calls.append("rewards") or rewards(self, *args)
    )
    trainer = plain(tmp_path, rollout_func=written, options={"steps_per_generation": steps})
    trainer.beta, trainer.ref_model = 0.1, tiny_llama(trainer._tokenizer, seed=1)
    add_head(trainer.ref_model)
    output = trainer._generate_and_score_completions(rows())
    assert calls == [(True, (8, 8), (8, 8), 6)] * passes + [(False, (8, 8), (8, 8), 6), "rewards"]
    assert ("old_per_token_logps" in output) == bool(passes)


def test_the_batch_has_the_columns_that_are_read(tmp_path: Path) -> None:
    """Ids and masks padded left and right, and an advantage for each rollout."""
    output = plain(tmp_path, rollout_func=written)._generate_and_score_completions(rows())
    assert output["prompt_ids"].shape == output["prompt_mask"].shape == (8, 2)
    assert output["completion_ids"].shape == output["completion_mask"].shape == (8, 6)
    assert output["advantages"].shape == (8,) and "old_per_token_logps" not in output


def test_a_loss_may_have_an_advantage_per_token(tmp_path: Path) -> None:
    """`advantages` of shape [B, L] give the loss that [B] gives where a row's are equal."""
    trainer = plain(tmp_path, rollout_func=written)
    batch = trainer._generate_and_score_completions(rows())
    per_token = batch | {"advantages": batch["advantages"][:, None].expand(8, 6)}
    torch.testing.assert_close(
        trainer._compute_loss(trainer.model, per_token), trainer._compute_loss(trainer.model, batch)
    )


def test_where_the_micro_batches_are_kept(tmp_path: Path) -> None:
    """`_prepare_inputs` fills `_buffered_inputs` with a generation's micro-batches, `steps_per_generation` of them, and
    returns the one that `_step` counts to; it makes no others until they are used up."""
    trainer = plain(tmp_path, rollout_func=written, options={"steps_per_generation": 2})
    first = trainer._prepare_inputs(rows())
    kept = trainer._buffered_inputs
    assert len(kept) == 2 and first is kept[0] and len(first["completion_ids"]) == 4
    trainer._step += 1
    assert trainer._prepare_inputs(rows()) is kept[1] and trainer._buffered_inputs is kept


def test_a_reward_of_none_is_nan(tmp_path: Path) -> None:
    """A function that does not apply to a rollout leaves NaN there, for us to leave it out."""
    trainer = plain(tmp_path, reward=lambda completions, **_: [1.0, None] * (len(completions) // 2))
    found = trainer._calculate_rewards(rows(), [row["prompt"] for row in rows()], [[]] * 8, [[1]] * 8)
    assert found[:, 0].isnan().tolist() == [False, True] * 4


def look(at: str) -> str:
    """Look.

    Args:
        at: what to look at.

    Returns:
        What is seen.
    """
    return f"seen {at}"


def test_the_tool_loop_goes_on_in_order_from_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop asks for the next turn of the rollouts that go on, in their order, each from its own tokens and the
    tools' answer, through `_generate_single_turn`; its output is cut at `max_completion_length`."""
    tokenizer = qwen_tokenizer()
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "it"}}\n</tool_call><|im_end|>'
    asked: list[list[list[int]]] = []
    turns = [[call, "no<|im_end|>"] * 4, [call, "x<|im_end|>", call, "y<|im_end|>"], ["z" * 500, "w<|im_end|>"]]
    ids = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] for texts in turns]

    def write(self: Any, contexts: list[list[int]], *_: Any, **__: Any) -> Any:
        asked.append([list(context) for context in contexts])
        return [list(one) for one in ids[len(asked) - 1]], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", write)
    trainer = plain(tmp_path, tools=[look], options={"max_completion_length": 400})
    trainer._sync_tool_dicts, trainer._async_tool_dicts = [{"look": look}] * 8, [{}] * 8
    _, completions, mask, *_ = trainer._generate([row["prompt"] for row in rows()])
    going = [range(8), range(0, 8, 2), (0, 4)]
    before = {row: [] for row in range(8)}
    for contexts, rows_of, texts in zip(asked, going, ids, strict=True):
        assert len(contexts) == len(rows_of)
        for context, row, text in zip(contexts, rows_of, texts, strict=True):
            assert context[: len(before[row])] == before[row] and len(context) > len(before[row])
            before[row] = context + text
    assert len(completions[0]) == 400 and len(mask[0]) == 400 and mask[0].count(0) > 0


@pytest.mark.parametrize(
    "name",
    [
        *("_metrics", "_logs", "_tokenizer", "_is_vlm", "num_generations", "num_generations_eval", "reward_weights"),
        *("beta", "aux_loss_enabled", "num_iterations", "generation_config", "generation_kwargs", "rollout_func"),
        *("use_vllm", "temperature", "max_completion_length", "environment_factories", "environments", "tools"),
        *("router_aux_loss_coef", "entropy_coef", "_last_world_entropy", "_entropy_window_stats", "eos_token_ids"),
        *("_entropy_bonus_enabled", "use_adaptive_entropy", "top_entropy_quantile", "off_policy_mask_threshold"),
        *("loss_type", "pad_to_multiple_of", "chat_template_kwargs", "_buffered_inputs", "_step", "reward_funcs"),
    ],
)
def test_attributes(name: str, trainer: GRPOTrainer) -> None:
    """A trainer has each attribute that we read."""
    assert hasattr(trainer, name)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    return plain(tmp_path_factory.mktemp("plain"))


def test_a_prompts_rollouts_are_consecutive() -> None:
    """The sampler repeats each prompt `num_generations` times in a row, so row // num_generations is its group."""
    rows = list(RepeatSampler(range(6), mini_repeat_count=3, batch_size=2, repeat_count=1, shuffle=True, seed=1))
    assert all(len(set(rows[i : i + 3])) == 1 for i in range(0, len(rows), 3))


def test_the_fused_head_fills_a_cache_it_is_given() -> None:
    """`model(..., fused_lm_head=True, past_key_values=cache)` returns shifted log-probabilities and fills the cache,
    which is what lets one pass give old log-probabilities and keys. Where it does not run, ours is in its place."""
    if why := why_plain_head("cpu"):
        pytest.skip(why)
    tokenizer = qwen_tokenizer()
    model = tiny_llama(tokenizer)
    ids = torch.randint(0, 200, (2, 9))
    with torch.no_grad():
        expected = torch.log_softmax(model(input_ids=ids).logits, dim=-1)
        utils.add_fused_lm_head(model, outputs=("log_probs", "entropy"))
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
