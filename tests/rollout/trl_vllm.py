"""A stand-in for TRL's `VLLMGeneration`, whose interface `tests/integrations/test_trl_vllm.py` compares with TRL's."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from tests.integrations.parts import qwen_tokenizer, tiny_llama


class VLLM:
    """Generates greedily with the settings TRL's `VLLMGeneration` would give vLLM at each call.

    The log-probabilities it reports are those of the `n_possible` likeliest tokens alone, as after top-k; those of
    others are None. The sampled token's is always among them, likeliest first.
    """

    def __init__(self, model: PreTrainedModel, config: GenerationConfig, n_possible: int = 10) -> None:
        self.model, self.config, self.n_possible = model, config, n_possible
        self.generation_kwargs: dict[str, Any] = {"seed": 3}
        self.max_completion_length = 999
        self.logprobs: int | None = 0
        self.calls: list[dict[str, Any]] = []

    def generate(self, prompts: list[list[int]], images: None, num_generations: int, profiler: Any = None) -> tuple:
        self.calls.append(
            {
                "n": len(prompts),
                "max_tokens": self.max_completion_length,
                "logprobs": self.logprobs,
                **self.generation_kwargs,
            }
        )
        assert images is None and num_generations == 1
        turns = [self._write(ids) for ids in prompts]
        reported = [self._logps(*both) for both in zip(prompts, turns, strict=True)]
        if self.logprobs is None:
            return prompts, turns, None, None
        return prompts, turns, [logps for logps, _ in reported], [tokens for _, tokens in reported]

    def _write(self, ids: list[int]) -> list[int]:
        with torch.no_grad():
            output = self.model.generate(
                torch.tensor([ids]), generation_config=self.config, max_new_tokens=self.max_completion_length
            )
        return output[0, len(ids) :].tolist()

    def _logps(self, ids: list[int], turn: list[int]) -> tuple[list[list[float | None]], list[list[int]]]:
        with torch.no_grad():
            logits = self.model(torch.tensor([ids + turn])).logits[0, len(ids) - 1 : -1]
        best = logits.topk(self.n_possible)
        logps, tokens = best.values.log_softmax(-1).tolist(), best.indices.tolist()
        if not self.logprobs:
            places = [mine.index(token) for mine, token in zip(tokens, turn, strict=True)]
            return [[row[i]] for row, i in zip(logps, places, strict=True)], [[token] for token in turn]
        n = self.logprobs
        return [[*row[:n], None, -math.inf] for row in logps], [[*row[:n], -1, -2] for row in tokens]


def random_policy() -> VLLM:
    """A random policy that never ends a turn by itself."""
    tokenizer = qwen_tokenizer()
    model = tiny_llama(tokenizer, seed=5)
    model.generation_config.eos_token_id = None
    return VLLM(model, GenerationConfig(do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=None))
