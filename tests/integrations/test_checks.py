"""What is refused before a run starts, and what the refusal leaves as it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import IterableDataset
from transformers import LlamaConfig, LlamaForSequenceClassification

from a2tgpo import A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.trl.checks import check_answers, check_model, check_rollouts, refuse_nan
from a2tgpo.integrations.trl.dynamic_rows import open_dynamic_sampler
from a2tgpo.methods import METHODS
from a2tgpo.rollout.strategies import Independent
from tests.integrations.parts import config, questions, scripted_trainer, tiny_llama


def length_reward(completions: list[str], **_: Any) -> list[float | None]:
    """Length, None for nothing, NaN for a question mark."""
    return [float("nan") if c == "?" else float(len(c)) if c else None for c in completions]


class Judge:
    """A reward that is an object."""

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        return [float("nan") for _ in completions]


def test_numbers_and_none_pass() -> None:
    """A checked reward function returns what the function does; None stays TRL's word for not applicable."""
    assert refuse_nan(length_reward)(["abc", ""], answer=["x", "y"]) == [3.0, None]


@pytest.mark.parametrize(
    ("reward", "name"),
    [(length_reward, "length_reward"), (Judge(), "Judge"), (functools.partial(length_reward), "partial")],
)
def test_nan_names_function_and_rollout(reward: Any, name: str) -> None:
    """A NaN raises with the function's name, be it a function, an object or a partial, and the rollout's number; the
    name is what TRL will log the reward under."""
    checked = refuse_nan(reward)
    assert checked.__name__ == name
    with pytest.raises(ValueError, match=rf"{name}' returned NaN for rollout 0"):
        checked(["?", "ab"])


def test_the_shape_of_what_is_given_stays() -> None:
    """A list stays a list in its order, and names, documentation and signatures, which TRL reads, stay too."""
    checked = refuse_nan([length_reward, "reward/model"])
    assert [getattr(reward, "__name__", reward) for reward in checked] == ["length_reward", "reward/model"]
    assert inspect.signature(checked[0]) == inspect.signature(length_reward)
    assert checked[0].__doc__ == length_reward.__doc__
    assert refuse_nan("reward/model") == "reward/model" and refuse_nan(None) is None


def test_models_and_coroutines_are_left_alone() -> None:
    """A reward model, which is callable, and an async function, which TRL recognises by its kind, come back as they
    are."""
    model = LlamaForSequenceClassification(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )

    async def later(completions: list[str], **_: Any) -> list[float]:
        return [1.0 for _ in completions]

    assert refuse_nan(model) is model
    assert refuse_nan(later) is later
    assert asyncio.run(refuse_nan([later])[0](["x"])) == [1.0]


def test_a_multimodal_processor_is_refused() -> None:
    """Likelihoods are read from text alone, and the message says what to pass."""
    with pytest.raises(ValueError, match=r"multimodal processor.*pass a text model"):
        check_model(None, is_multimodal=True)


@pytest.mark.parametrize("rollout_func", [None, SimpleNamespace(sampling=Independent())])
def test_rollouts_that_share_no_turns_are_refused(rollout_func: Any) -> None:
    """A method that compares branches is not trained on rollouts without any, be they TRL's own; the message holds the
    rollout_func to pass."""
    with pytest.raises(ValueError, match=r"rollout_func grows (None|Independent).*pass rollout_func=TagRollout\(agent"):
        check_rollouts(rollout_func, METHODS["tree-grpo"])


def test_adapters_that_write_into_the_prompt_are_refused(tmp_path: Path) -> None:
    """Virtual tokens are in no mask of TRL's; the message says which adapter to take."""
    peft = pytest.importorskip("peft")
    tokenizer = build_tokenizer()
    with pytest.raises(ValueError, match=r"peft_config is a PromptTuningConfig.*use LoRA"):
        A2TGPOTrainer(
            tiny_llama(tokenizer),
            length_reward,
            config(tmp_path),
            train_dataset=questions(),
            processing_class=tokenizer,
            peft_config=peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_environments": True}, r"environment_factory.*pass tools= or rollout_func="),
        ({"dataset": questions().to_iterable_dataset()}, r"train_dataset is IterableDataset.*with a length"),
        ({"group_size": 3}, r"num_generations=3.*a process generates 8 rollouts"),
    ],
)
def test_what_cannot_be_sampled_dynamically_is_refused(changes: dict[str, Any], message: str) -> None:
    """dapo replaces whole prompts by others of a training set, after their rollouts: not in environments, which TRL
    resets once a batch, not from a stream, and not where a prompt lies on two processes."""
    never: Any = None
    settings: dict[str, Any] = {"dataset": questions(), "group_size": 4, "in_environments": False} | changes
    with pytest.raises(ValueError, match=message):
        open_dynamic_sampler(
            METHODS["dapo"], rows_per_batch=8, generate=never, rewards=never, collective=never, seed=0, **settings
        )


def test_every_data_set_is_checked(tmp_path: Path) -> None:
    """Each of several evaluation sets is looked at; a stream, which cannot be read twice, is not read at all."""
    trainer = scripted_trainer(tmp_path, [["x"]])
    with pytest.raises(ValueError, match="no 'answer'"):
        check_answers({"a": questions(), "b": questions().remove_columns("answer")}, trainer._scoring.scorer)

    def rows():  # type: ignore[no-untyped-def]
        raise AssertionError("the stream was read")
        yield {}

    check_answers(IterableDataset.from_generator(rows), trainer._scoring.scorer)
    check_answers(None, trainer._scoring.scorer)
