"""Transcripts: the same turns and texts as the token masks, whoever ran the rollout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trl import GRPOTrainer

from a2tgpo.integrations.trl.rollout_func import rollout_columns
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.types import Rollout, Termination
from a2tgpo.signals import Transcript, Turn, transcripts
from a2tgpo.signals.answer_likelihood import find_boundaries
from tests.integrations.parts import config, questions, tiny_llama
from tests.signals.parts import Library, byte_tokenizer, lookup

CALL = '<tool_call>\n{"name": "lookup", "arguments": {"name": "Kelo"}}\n</tool_call><|im_end|>'
ANSWER = "\\boxed{bora}<|im_end|>"


def read(tmp_path: Path, tokenizer: Any, **loop: Any) -> list[Transcript]:
    """The transcripts of one generation batch of TRL's own trainer: 2 prompts, 4 rollouts each."""
    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in questions()]
    trainer = GRPOTrainer(
        tiny_llama(tokenizer),
        exact_match_reward,
        config(tmp_path, max_completion_length=600),
        train_dataset=questions().from_list(rows),
        processing_class=tokenizer,
        **loop,
    )
    trainer.model.train()
    rows = [rows[i // 4] for i in range(8)]
    output = trainer._generate_and_score_completions(rows)
    masks = {
        "prompt_mask": output["prompt_mask"],
        "completion_ids": output["completion_ids"],
        "completion_mask": output["completion_mask"],
        "model_mask": output["tool_mask"],
    }
    boundaries = find_boundaries(**masks, end_ids=[tokenizer.eos_token_id])
    answers = [row["answer"] for row in rows]
    return transcripts(tokenizer, boundaries, prompt_ids=output["prompt_ids"], answers=answers, **masks)


def test_tag_rollouts(tmp_path: Path) -> None:
    """Our own loop's columns: turns and observations are what the rollout appended, and the end-of-sequence token
    with which the environment closes a rollout belongs to neither."""
    tokenizer = byte_tokenizer(bos=False)
    scripts = [["<search>", "<result>", "<answer>"], ["<answer>"], ["<search>", "<result>", "<search>", "<result>"]]

    def play(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        rollouts = []
        for i in range(len(prompts)):
            made = Rollout(tokenizer("who?")["input_ids"])
            for k, text in enumerate(scripts[i % 3]):
                made.append(tokenizer(text)["input_ids"], by_policy=k % 2 == 0)
            made.append([tokenizer.eos_token_id], by_policy=False)
            made.end(Termination.ANSWERED if i % 3 < 2 else Termination.OUT_OF_TURNS)
            rollouts.append(made)
        return rollout_columns(rollouts)

    for i, made in enumerate(read(tmp_path, tokenizer, rollout_func=play)):
        script = scripts[i % 3]
        assert [turn.text for turn in made.turns] == script[::2]
        assert [turn.observation for turn in made.turns if turn.observation is not None] == script[1::2]
        assert made.prompt == "who?" and made.answers == ("bora", "bo")
        assert made.prompt == tokenizer.decode(made.prompt_ids)
        assert all(turn.text == tokenizer.decode(turn.ids) for turn in made.turns)


@pytest.mark.parametrize("native", [{"tools": [lookup]}, {"environment_factory": Library}])
def test_trls_own_loops(tmp_path: Path, native: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With `tools=` and `environment_factory=` a turn is the policy's message, and its observation what TRL's chat
    template makes of the tool's result, through the start of the next message. Only the sampling is replaced."""
    tokenizer = byte_tokenizer(bos=False)

    def sample(self: Any, prompt_ids: Any, *_: Any, **__: Any) -> tuple[list[list[int]], None]:
        texts = [
            CALL if i % 2 == 0 and "<tool_response>" not in tokenizer.decode(ids) else ANSWER
            for i, ids in enumerate(prompt_ids)
        ]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", sample)
    for i, made in enumerate(read(tmp_path, tokenizer, **native)):
        assert [turn.text for turn in made.turns] == ([CALL, ANSWER] if i % 2 == 0 else [ANSWER])
        assert made.prompt.endswith("<|im_start|>assistant\n") and "Who is the mentor of Kelo" in made.prompt
        assert made.turns[-1].observation is None
        if i % 2 == 0:
            observation = made.turns[0].observation
            assert observation is not None and "<tool_response>\nthe mentor of Kelo is bora" in observation
            assert observation.endswith("<|im_start|>assistant\n")


def test_padding_and_edges_by_hand() -> None:
    """Left-padded prompts, words of the environment before the first turn (they join the prompt), an answer turn that
    the policy closed and one that the environment closed, a rollout that ends in an observation, one whose tokens are
    all masked, and padding inside `model_mask`."""
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    rows = [  # (prompt, [(text, written by the policy)])
        ("q1", [("hi:", 0), ("go", 1), ("ON", 0), ("AS<|im_end|>", 1)]),
        ("question 2", [("go", 1), ("O", 0), ("AS", 1), ("<|im_end|>", 0)]),
        ("q3", [("go", 1), ("OB", 0)]),
        ("q4", []),
    ]
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in rows]
    pieces = [[(tokenizer(text)["input_ids"], own) for text, own in row] for _, row in rows]
    completions = [[token for ids, _ in row for token in ids] for row in pieces]
    masks = [[own for ids, own in row for _ in ids] for row in pieces]
    n_prompt, length = max(map(len, prompts)), max(map(len, completions))
    tensors = {
        "prompt_ids": torch.tensor([[0] * (n_prompt - len(ids)) + ids for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (n_prompt - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.tensor([ids + [0] * (length - len(ids)) for ids in completions]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in completions]),
        "model_mask": torch.tensor([mask + [1] * (length - len(mask)) for mask in masks]),
    }
    without_ids = {name: tensor for name, tensor in tensors.items() if name != "prompt_ids"}
    boundaries = find_boundaries(**without_ids, end_ids=[end])
    found = transcripts(tokenizer, boundaries, **tensors, answers=[["a"], ["b", "c"], ["d"], ["e"]])

    def turn(text: str, observation: str | None = None) -> Turn:
        ids = tuple(tokenizer(text)["input_ids"])
        observed = () if observation is None else tuple(tokenizer(observation)["input_ids"])
        return Turn(text, observation, ids, observed)

    assert [made.prompt for made in found] == ["q1hi:", "question 2", "q3", "q4"]
    assert [made.answers for made in found] == [("a",), ("b", "c"), ("d",), ("e",)]
    assert [made.turns for made in found] == [
        (turn("go", "ON"), turn("AS<|im_end|>")),
        (turn("go", "O"), turn("AS")),
        (turn("go", "OB"),),
        (),
    ]
    assert [made.steps for made in found] == [["goON"], ["goO"], ["goOB"], []]
    assert boundaries.is_process.tolist() == [[True, False], [True, False], [True, False], [False, False]]
