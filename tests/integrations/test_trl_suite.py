"""What TRL's own tests ask of its trainer, asked of ours with turn credit on: data and rewards of every kind,
references, adapters, environments, tokens that nobody could score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDatasetDict
from peft import LoraConfig, get_peft_model

from a2tgpo import A2TGPOTrainer
from tests.integrations.parts import config, qwen_tokenizer, tiny_llama

CALL = '<tool_call>\n{"name": "%s", "arguments": %s}\n</tool_call><|im_end|>'
NAMES = ("Kelo", "Mitu", "Bora", "Tasu", "Rena")


def asked(n: int = 5, *, messages: bool = False) -> Dataset:
    """Prompts with a gold answer, as text or as messages."""
    texts = [f"Who is {name}?" for name in NAMES[:n]]
    prompts = [[{"role": "user", "content": text}] for text in texts] if messages else texts
    return Dataset.from_list([{"prompt": p, "answer": "bora", "number": i} for i, p in enumerate(prompts)])


def length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(str(completion))) for completion in completions]


def letters(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(set(str(completion)))) for completion in completions]


async def later(completions: list[Any], **_: Any) -> list[float]:
    return letters(completions)


def none(completions: list[Any], **_: Any) -> list[None]:
    return [None] * len(completions)


def of_column(completions: list[Any], number: list[int], **_: Any) -> list[float]:
    return [abs(len(str(c)) - n) + 0.0 for c, n in zip(completions, number, strict=True)]


def trainer_of(tmp_path: Path, reward: Any = length, model: Any = None, **parts: Any) -> A2TGPOTrainer:
    """A trainer that generates for itself, three rollouts of a prompt, eight tokens each."""
    tokenizer = qwen_tokenizer()
    options = parts.pop("options", {})
    settings = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 3, "num_generations": 3}
    settings |= {"max_completion_length": 8, "max_steps": 2, "learning_rate": 0.1, "rollouts_dir": ""}
    parts.setdefault("train_dataset", asked())
    return A2TGPOTrainer(
        tiny_llama(tokenizer) if model is None else model,
        reward,
        config(tmp_path, **settings | options),
        processing_class=tokenizer,
        **parts,
    )


def trains(trainer: A2TGPOTrainer) -> dict[str, Any]:
    """Train, see that every weight moved, and return all that was logged."""
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    same = [name for name, weight in before.items() if torch.equal(weight, trainer.model.get_parameter(name))]
    assert not same
    logged: dict[str, Any] = {}
    for line in trainer.state.log_history:
        logged |= line
    assert math.isfinite(logged["train_loss"])
    return logged


OPTIONS: dict[str, dict[str, Any]] = {
    "several updates": {"num_iterations": 2},
    "more rollouts than a micro-batch": {"num_generations": 6, "gradient_accumulation_steps": 2},
    "a penalty to a reference that follows": {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1},
    "sampling": {"top_p": 0.9, "top_k": 10, "min_p": 0.01, "repetition_penalty": 1.1},
    "beams": {"generation_kwargs": {"num_beams": 2, "length_penalty": -0.1}},
    "a head in float32": {"cast_lm_head_to_fp32": True},
    "autocast": {"bf16": True},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "entropy": {"entropy_coef": 0.01, "use_adaptive_entropy": True, "entropy_target": 15.0},
    "unsure tokens": {"top_entropy_quantile": 0.2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options(tmp_path: Path, name: str) -> None:
    """Each trains every weight."""
    trainer = trainer_of(tmp_path, options=OPTIONS[name])
    logged = trains(trainer)
    if name == "entropy":  # the controller moves once an update
        assert trainer.entropy_coef == pytest.approx(0.01 + 2 * trainer.args.entropy_coef_delta)
        assert {"policy_loss", "entropy_coef"} <= logged.keys()


@pytest.mark.parametrize(
    ("reward", "options", "logged"),
    [
        ([length, letters], {"reward_weights": [0.7, 0.3]}, ("length", "letters")),
        ([length, later], {}, ("length", "later")),
        ([length, none], {}, ("length", "none")),
        (of_column, {}, ("of_column",)),
    ],
)
def test_rewards(tmp_path: Path, reward: Any, options: dict[str, Any], logged: tuple[str, ...]) -> None:
    """Weighted, asynchronous, not applicable, and of another column; each is logged under its name."""
    found = trains(trainer_of(tmp_path, reward, options=options))
    assert {f"rewards/{name}/{part}" for name in logged for part in ("mean", "std")} <= found.keys()


def test_a_streamed_set(tmp_path: Path) -> None:
    """It has no length, and is read once."""
    trains(trainer_of(tmp_path, train_dataset=asked().to_iterable_dataset()))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", [None, dict, DatasetDict])
def test_evaluation_sets(tmp_path: Path, kind: Any, streamed: bool) -> None:
    """One set or several, streamed or not, before the first update and passed to `evaluate`."""
    part = asked(2).to_iterable_dataset() if streamed else asked(2)
    kind = IterableDatasetDict if streamed and kind is DatasetDict else kind
    data = part if kind is None else kind({"a": part, "b": part})
    options = {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "num_generations_eval": 1}
    trainer = trainer_of(tmp_path, eval_dataset=data, options=options)
    trainer.train()
    names = ("eval",) if kind is None else ("eval_a", "eval_b")
    metrics = trainer.evaluate(eval_dataset=data)
    assert all(math.isfinite(metrics[f"{name}_loss"]) for name in names)
    assert any("eval_reward" in line for line in trainer.state.log_history)


@pytest.mark.parametrize("given", [True, False])
def test_adapters_alone_move(tmp_path: Path, given: bool) -> None:
    """A configuration of PEFT's or a model that has one: the adapter learns, what is under it stays."""
    model, lora = tiny_llama(qwen_tokenizer()), LoraConfig(target_modules=["q_proj", "v_proj"])
    trainer = (
        trainer_of(tmp_path, model=model, peft_config=lora, options={"gradient_checkpointing": True})
        if given
        else trainer_of(tmp_path, model=get_peft_model(model, lora), options={"beta": 0.1})
    )
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    for name, weight in before.items():
        learns = "lora" in name and ".ref." not in name
        assert torch.equal(weight, trainer.model.get_parameter(name)) != learns, name


class Counting:
    """An environment that counts."""

    answer = "one"

    def reset(self, **row: Any) -> str:
        self.row, self.count = row, 0
        return "Count."

    def increment(self, step: int) -> int:
        """Add to the counter.

        Args:
            step: what to add.

        Returns:
            The counter.
        """
        self.count += step
        return self.count


class Loud(Counting):
    """One that repeats loudly, and owns its reward."""

    def shout(self, text: str) -> str:
        """Shout.

        Args:
            text: what to shout.

        Returns:
            The text in capitals.
        """
        self.count = 5
        return text.upper()

    def get_reward(self) -> float:
        return float(self.count)


def test_environments_are_chosen_by_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rollout's calls reach its own environment, a call that its environment has not is the policy's fault, and a
    reward that an environment owns is counted where there is one."""
    tokenizer = qwen_tokenizer()
    first = [CALL % ("increment", '{"step": 1}'), CALL % ("shout", '{"text": "a"}'), CALL % ("shout", '{"text": "hi"}')]
    first.append("No.<|im_end|>")

    def write(self: Any, contexts: list[list[int]], *_: Any, **__: Any) -> Any:
        texts = first if len(contexts) == 4 else ["Done.<|im_end|>"] * len(contexts)
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(A2TGPOTrainer, "_generate_single_turn", write)
    trainer = trainer_of(
        tmp_path,
        train_dataset=Dataset.from_dict({"environment": ["counting", "loud"]}),
        environment_factory={"counting": Counting, "loud": Loud},
        options={
            "per_device_train_batch_size": 4,
            "num_generations": 2,
            "shuffle_dataset": False,
            "max_completion_length": 900,
            "max_steps": 1,
        },
    )
    trainer.train()
    log = trainer.state.log_history[0]
    assert [environment.count for environment in trainer.environments[:4]] == [1, 0, 5, 0]
    assert all("environment" not in environment.row for environment in trainer.environments[:4])
    assert log["tools/call_frequency"] == pytest.approx(0.75) and log["tools/failure_frequency"] == pytest.approx(1 / 3)
    assert log["rewards/Loud/mean"] == pytest.approx(2.5) and log["rollout/invalid"] == 0


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_a_token_that_the_engine_could_not_score(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM reports None for it: it weighs 1, and neither the loss, nor a metric, nor the off-policy mask is NaN."""
    trainer = trainer_of(
        tmp_path,
        lambda completions, **_: [float(i) for i in range(len(completions))],
        options={"off_policy_mask_threshold": 1e9, "max_steps": 1},
    )
    generate = A2TGPOTrainer._generate

    def scored(self: Any, prompts: Any) -> Any:
        self.use_vllm = False  # generates as usual
        generated = list(generate(self, prompts))
        self.use_vllm = True
        generated[4] = [[None, *[-0.5] * (len(ids) - 1)] for ids in generated[1]]
        return tuple(generated)

    monkeypatch.setattr(A2TGPOTrainer, "_generate", scored)
    trainer.use_vllm, trainer.vllm_importance_sampling_correction = True, True
    trainer.vllm_importance_sampling_mode = mode
    trainer.train()
    log = trainer.state.log_history[0]
    assert all(math.isfinite(value) for value in log.values() if isinstance(value, float))
    assert log["grad_norm"] > 0 and log["sampling/sampling_logp_difference/max"] > 0


def test_nothing_left_to_learn_from(tmp_path: Path) -> None:
    """Where every rollout is cut off and masked, the loss is 0 and no weight moves."""
    trainer = trainer_of(tmp_path, options={"mask_truncated_completions": True, "max_completion_length": 2})
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] == 0
    assert all(torch.equal(weight, trainer.model.get_parameter(name)) for name, weight in before.items())
