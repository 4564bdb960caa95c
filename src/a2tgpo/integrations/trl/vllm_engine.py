"""Adapt the vLLM engine or server that TRL set up to our `TokenEngine`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from a2tgpo.rollout.engine import Turn
from a2tgpo.rollout.lockstep_engine import TurnSampling

if TYPE_CHECKING:
    from trl.generation.vllm_generation import VLLMGeneration

N_LIKELIEST = 10
"""Tokens whose log-probabilities vLLM is asked for where entropies are wanted; the others' share is left out."""


class TRLTokenEngine:
    """Generate turns with TRL's `VLLMGeneration` (colocate or server): a `TokenEngine`.

    Raises:
        ValueError: from vLLM, for a prompt that it refuses.
    """

    def __init__(self, generation: VLLMGeneration) -> None:
        self.generation = generation

    def generate(self, prompts: list[list[int]], sampling: TurnSampling) -> list[Turn]:
        """Write one turn after each prompt, with the log-probability of each of its tokens."""
        with self._turn_settings(sampling):
            _, completion_ids, logps, tokens = self.generation.generate(prompts=prompts, images=None, num_generations=1)
        if logps is None:
            return [Turn(list(ids)) for ids in completion_ids]
        return [
            Turn(
                list(ids),
                [_entropy(likeliest) for likeliest in rows[: sampling.n_entropies]],
                _of_sampled(ids, rows, reported),
            )
            for ids, rows, reported in zip(completion_ids, logps, tokens, strict=True)
        ]

    @contextmanager
    def _turn_settings(self, sampling: TurnSampling) -> Iterator[None]:
        """Set stops and length of a turn in place of those of a whole completion, and log-probabilities if asked."""
        generation = self.generation
        before = generation.generation_kwargs, generation.max_completion_length, generation.logprobs
        stops = {"stop": list(sampling.stop_strings), "include_stop_str_in_output": True}
        generation.generation_kwargs = before[0] | stops
        generation.max_completion_length = sampling.max_tokens
        if sampling.n_entropies:
            generation.logprobs = N_LIKELIEST
        try:
            yield
        finally:
            generation.generation_kwargs, generation.max_completion_length, generation.logprobs = before


def largest_of_processes(here: int) -> int:
    """Return the largest `here` of all processes; a collective."""
    return max(gather_object([here]))


def _of_sampled(
    ids: Sequence[int], rows: Sequence[Sequence[float | None]], reported: Sequence[Sequence[int]]
) -> list[float]:
    """Pick the sampled token's log-probability of those reported at each position; NaN for vLLM's None."""
    found = [logps[tokens.index(id)] for id, logps, tokens in zip(ids, rows, reported, strict=True)]
    return [math.nan if logp is None else logp for logp in found]


def _entropy(logps: Sequence[float | None]) -> float:
    """Return −Σ p·log p of the tokens given, less those of probability 0, which vLLM reports as None or −inf."""
    return -sum(math.exp(logp) * logp for logp in logps if logp is not None and logp > -math.inf)
