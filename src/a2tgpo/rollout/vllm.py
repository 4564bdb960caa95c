"""Generation by vLLM, through the engine or server that TRL set up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from a2tgpo.rollout.backend import Continuation, TakeTurns, Turn

if TYPE_CHECKING:
    from trl.generation.vllm_generation import VLLMGeneration


N_LIKELIEST = 10
"""Tokens whose log-probabilities vLLM is asked for where entropies are wanted; the others' share is left out."""


class VLLMBackend:
    """`Backend` over TRL's `VLLMGeneration` (colocate or server), all rows turn by turn in step.

    Turns end at `stop_strings` inside vLLM. Each turn sends the whole context again; vLLM's prefix cache, on unless
    switched off, finds the keys of everything before the last turn, and those that a new row shares with another.

    Several processes share each call, so every process takes part with equally many prompts until the last of them has
    no open row; a process with fewer sends its first prompt again and throws the answer away.
    """

    def __init__(self, generation: VLLMGeneration, stop_strings: Sequence[str]) -> None:
        self.generation = generation
        self.stop_strings = list(stop_strings)

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns, n_entropies: int = 0) -> None:
        contexts: dict[int, list[int]] = {}
        going = dict(enumerate(starts))
        while (n_prompts := max(gather_object([len(going)]))) > 0:
            for row, continuation in going.items():
                contexts[row] = contexts.get(row, []) + continuation.ids
            longest = max(gather_object([max((start.budget for start in going.values()), default=1)]))
            prompts = [contexts[row] for row in going]
            spare = [contexts[0]] * (n_prompts - len(prompts))
            turns = {
                row: Turn(written.ids[: start.budget], written.entropies[: start.budget], written.logps[: start.budget])
                for (row, start), written in zip(
                    going.items(), self._generate(prompts + spare, longest, n_entropies), strict=False
                )
            }
            for row, turn in turns.items():
                contexts[row] = contexts[row] + turn.ids
            going = take_turns(turns) if turns else {}

    def _generate(self, prompts: list[list[int]], max_tokens: int, n_entropies: int) -> list[Turn]:
        with self._turn_settings(max_tokens, n_entropies):
            _, completion_ids, logps, tokens = self.generation.generate(prompts=prompts, images=None, num_generations=1)
        if logps is None:
            return [Turn(list(ids)) for ids in completion_ids]
        return [
            Turn(list(ids), [_entropy(likeliest) for likeliest in rows[:n_entropies]], _of_sampled(ids, rows, reported))
            for ids, rows, reported in zip(completion_ids, logps, tokens, strict=True)
        ]

    @contextmanager
    def _turn_settings(self, max_tokens: int, n_entropies: int) -> Iterator[None]:
        """Stops and length of a turn in place of those of a whole completion, and log-probabilities if asked for."""
        generation = self.generation
        before = generation.generation_kwargs, generation.max_completion_length, generation.logprobs
        generation.generation_kwargs = before[0] | {"stop": self.stop_strings, "include_stop_str_in_output": True}
        generation.max_completion_length = max_tokens
        if n_entropies:
            generation.logprobs = N_LIKELIEST
        try:
            yield
        finally:
            generation.generation_kwargs, generation.max_completion_length, generation.logprobs = before


def _of_sampled(
    ids: Sequence[int], rows: Sequence[Sequence[float | None]], reported: Sequence[Sequence[int]]
) -> list[float]:
    """Of the log-probabilities reported for each position, the sampled token's; NaN for what vLLM reports as None."""
    found = [logps[tokens.index(id)] for id, logps, tokens in zip(ids, rows, reported, strict=True)]
    return [math.nan if logp is None else logp for logp in found]


def _entropy(logps: Sequence[float | None]) -> float:
    """−Σ p·log p over the tokens given, without those of probability 0, which vLLM reports as None or −inf."""
    return -sum(math.exp(logp) * logp for logp in logps if logp is not None and logp > -math.inf)
