"""DAPO's two own parts inside the trainer: prompts that are replaced, and the penalty for length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from a2tgpo import A2TGPOTrainer
from a2tgpo.data.tokenizer import build_tokenizer
from a2tgpo.integrations.trl.rollout_func import rollout_columns
from a2tgpo.methods import METHODS
from a2tgpo.pipeline import RolloutBatch, TaskRow, add_overlong_penalty
from a2tgpo.rollout.protocol import answer_turn
from a2tgpo.rollout.types import Rollout
from tests.integrations.parts import Recorded, ScriptedRollout, by_turn, config, questions, tiny_llama
from tests.rollout.scripted import ScriptedEngine


class ByPrompt(ScriptedRollout):
    """Answers the first question always wrong, any other right and wrong by turns."""

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        right = ["Mitu" in prompt and i % 2 == 0 for i, prompt in enumerate(prompts)]
        scripts = [[answer_turn("bora" if hit else "kelo")] for hit in right]
        return rollout_columns(self.agent.run(prompts, ScriptedEngine(self.agent.tokenizer, scripts)))


def test_the_batch_is_that_of_the_replacements(tmp_path: Path, assigned: list[Recorded]) -> None:
    """A prompt whose rollouts all fail makes way for one that teaches: the rewards that TRL asks for last, its token
    ids, the rows and the credit are all those of the replacement."""
    asked: list[list[str]] = []

    def reward(prompts: list[str], rollout: list[Rollout], **_: Any) -> list[float]:
        asked.append(list(prompts))
        return [float(one.answer == "bora") for one in rollout]

    tokenizer = build_tokenizer()
    plays = ByPrompt(tokenizer, [])
    trainer = A2TGPOTrainer(
        tiny_llama(tokenizer),
        reward,
        config(tmp_path, method="dapo"),
        train_dataset=questions(6),
        processing_class=tokenizer,
        rollout_func=plays,
    )
    trainer.model.train()
    rows = [dict(trainer.train_dataset[i // 4]) for i in range(8)]
    before = [row["prompt"] for row in rows]
    output = trainer._generate_and_score_completions(rows)
    (recorded,) = assigned
    prompts = [task.prompt for task in recorded.batch.tasks]
    assert prompts[4:] == before[4:] and len(set(prompts[:4])) == 1
    assert "Mitu" not in before[0] and "Mitu" in prompts[0]
    assert asked[0] == before and all(asked.count(one) == 1 for one in asked)
    ids = [output["prompt_ids"][i][output["prompt_mask"][i].bool()].tolist() for i in range(8)]
    assert ids == [plays.agent.encode_prompt(prompt) for prompt in prompts]
    assert [record.prompt_ids for record in recorded.batch.records if record is not None] == ids
    assert by_turn(output, "advantages", 1)[:, 0].tolist() == pytest.approx([0.75**0.5, -(0.75**0.5)] * 4, abs=1e-4)
    assert trainer._metrics["train"]["rollout/sampled_batches"][0] >= 2


def test_length_is_charged_towards_the_limit() -> None:
    """Over the last fifth of 400 tokens the penalty rises to 1: none up to 320, a quarter at 340, all of it at 400."""
    lengths = torch.tensor([10, 320, 340, 400])
    ids = torch.zeros(4, 400, dtype=torch.long)
    mask = (torch.arange(400) < lengths[:, None]).long()
    tasks = [TaskRow(None, "Who?")] * 4
    batch = RolloutBatch.of(ids[:, :1], mask[:, :1], ids, mask, mask.bool(), group_size=4, tasks=tasks)
    rewards = torch.full((4,), 2.5)
    charged = add_overlong_penalty(rewards, batch, METHODS["dapo"], 400)
    assert charged.tolist() == pytest.approx([2.5, 2.5, 2.25, 1.5])
    assert add_overlong_penalty(rewards, batch, METHODS["grpo"], 400).tolist() == [2.5] * 4
