"""Process signals in the real trainer: what they say is what the credit reads."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from transformers import LlamaConfig, LlamaForTokenClassification

from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.errors import SignalError
from a2tgpo.integrations.trl.answer_scoring import AnswerScoring
from a2tgpo.methods import METHODS
from a2tgpo.rollout.protocol import answer_turn, search_turn
from a2tgpo.signals import TurnFunction
from tests.integrations.parts import config, questions, scripted_trainer

SEARCH = search_turn("find it", "Kelo mentor")
SCRIPTS = [[SEARCH, answer_turn("bora")], [answer_turn("kelo")], [SEARCH, SEARCH, answer_turn("bora")], ["no tag"]]


def rollouts(folder: Path) -> list[dict[str, Any]]:
    """Every rollout logged, batch by batch."""
    return [json.loads(line) for path in sorted(folder.glob("step_*.jsonl")) for line in path.open(encoding="utf-8")]


def test_a_function_of_the_users_stands_in_for_information_gain(tmp_path: Path) -> None:
    """The numbers a function gives turns are the logged gains, on data without answers, and no likelihood is scored."""
    seen: list[Any] = []

    def judge(rollout: Any) -> list[float]:
        seen.append(rollout)
        return [0.25 * (k + 1) for k, _ in enumerate(rollout.steps)]

    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        dataset=questions().remove_columns("answer").add_column("gold", ["bora", "bora"]),
        reward=lambda completions, **_: [float(i % 3) for i in range(len(completions))],
        rollouts_dir=str(tmp_path / "rollouts"),
        turn_signal=TurnFunction(judge),
    )
    trainer.train()
    logged = rollouts(tmp_path / "rollouts")
    assert [row["gain"] for row in logged] == [[0.25], [], [0.25, 0.5], []] * 2
    assert all("likelihood" not in row for row in logged)
    assert "seconds/old_logps" not in trainer.state.log_history[0]
    assert [len(rollout.turns) for rollout in seen[:4]] == [2, 1, 3, 1]


def test_a_function_that_fails_ends_the_run_with_its_name(tmp_path: Path) -> None:
    """A wrong count is an error that names the function, and not a gain of 0."""
    trainer = scripted_trainer(tmp_path, SCRIPTS, turn_signal=TurnFunction(lambda rollout: [1.0] * 9))
    with pytest.raises(SignalError, match="9 numbers for 1 process turns"):
        trainer.train()


def test_the_reference_reads_the_same_at_every_step(tmp_path: Path) -> None:
    """With a large learning rate the policy's likelihoods of the same rollouts move between batches, the frozen
    reference's stay; at the first batch, before any update, both read the same."""
    found = {}
    for signal in ("policy", "reference"):
        folder = tmp_path / signal
        scripted_trainer(
            folder,
            SCRIPTS,
            process_signal=signal,
            max_steps=2,
            learning_rate=0.1,
            rollouts_dir=str(folder / "rollouts"),
            dataset=questions(1),
            per_device_train_batch_size=4,
        ).train()
        found[signal] = [row["likelihood"] for row in rollouts(folder / "rollouts")]
    for policy, reference in zip(found["policy"][:4], found["reference"][:4], strict=True):
        assert policy == pytest.approx(reference, rel=1e-4)
    assert found["reference"][4:] == [pytest.approx(row, rel=1e-5) for row in found["reference"][:4]]
    assert found["policy"][4] != pytest.approx(found["policy"][0], rel=1e-2)


def test_a_process_reward_model_is_loaded_from_its_path(tmp_path: Path) -> None:
    """A token classifier on disk gives every process turn a probability, which is the logged gain."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForTokenClassification(shape).save_pretrained(tmp_path / "prm")
    tokenizer.save_pretrained(tmp_path / "prm")
    trainer = scripted_trainer(
        tmp_path,
        SCRIPTS,
        process_signal="reward_model",
        process_reward_model=str(tmp_path / "prm"),
        step_separator=".",
        rollouts_dir=str(tmp_path / "rollouts"),
    )
    trainer.train()
    gains = [row["gain"] for row in rollouts(tmp_path / "rollouts")]
    assert [len(gain) for gain in gains] == [1, 0, 2, 0] * 2
    assert all(0 < number < 1 for gain in gains for number in gain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process_signal": "reward_model"}, "that needs one"),
        ({"process_reward_model": "x"}, "a path goes with process_signal='reward_model'"),
        ({"process_signal": "reference", "method": "grpo"}, "method 'grpo' reads no process signal"),
        ({"process_signal": "judge"}, "choose one of 'policy'"),
    ],
)
def test_signals_that_contradict_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """A reward model without a path, a path without its signal, and a signal nobody reads fail at start."""
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_one_signal_at_a_time(tmp_path: Path) -> None:
    """A function given beside another signal, or to a method that reads none, is refused."""
    function = TurnFunction(lambda rollout: [])
    with pytest.raises(ValueError, match="give one of them"):
        scripted_trainer(tmp_path, SCRIPTS, process_signal="reference", turn_signal=function)
    with pytest.raises(ValueError, match="method 'grpo' reads no process signal"):
        scripted_trainer(tmp_path, SCRIPTS, method="grpo", turn_signal=function)


@pytest.mark.parametrize(("kind", "stage", "said"), [("FSDP", None, "FSDP"), ("DEEPSPEED", 3, "DeepSpeed ZeRO-3")])
def test_a_sharded_policy_has_no_frozen_reference(kind: str, stage: int | None, said: str) -> None:
    """FSDP and ZeRO-3 raise ValueError that points to the policy's own signal, before anything is copied."""
    plugin = None if stage is None else SimpleNamespace(zero_stage=stage)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType(kind), state=SimpleNamespace(deepspeed_plugin=plugin)
    )
    args: Any = SimpleNamespace(process_signal="reference")
    with pytest.raises(ValueError, match=rf"which {said} keeps in shards; score information gain with the policy"):
        AnswerScoring.open(args, METHODS["a2tgpo"], None, None, None, accelerator)
