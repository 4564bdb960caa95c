"""Generation by vLLM, through the engine or server that TRL set up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from a2tgpo.rollout.backend import Continuation, TakeTurns

if TYPE_CHECKING:
    from trl.generation.vllm_generation import VLLMGeneration


class VLLMBackend:
    """`Backend` over TRL's `VLLMGeneration` (colocate or server), all rows turn by turn in step.

    Turns end at `stop_strings` inside vLLM. Each turn sends the whole context again; vLLM's prefix cache, on unless
    switched off, finds the keys of everything before the last turn.

    Several processes share each call, so every process takes part with equally many prompts until the last of them has
    no open row; a process with fewer sends its first prompt again and throws the answer away.
    """

    def __init__(self, generation: VLLMGeneration, stop_strings: Sequence[str]) -> None:
        self.generation = generation
        self.stop_strings = list(stop_strings)

    def __call__(self, starts: Sequence[Continuation], take_turns: TakeTurns) -> None:
        contexts = {row: list(start.ids) for row, start in enumerate(starts)}
        budgets = {row: start.budget for row, start in enumerate(starts)}
        while (n_prompts := max(gather_object([len(budgets)]))) > 0:
            longest = max(gather_object([max(budgets.values(), default=1)]))
            prompts = [contexts[row] for row in budgets]
            spare = [contexts[0]] * (n_prompts - len(prompts))
            sampled = self._generate(prompts + spare, longest)
            turns = {row: list(ids)[: budgets[row]] for row, ids in zip(budgets, sampled, strict=False)}
            continuations = take_turns(turns) if turns else {}
            for row, continuation in continuations.items():
                contexts[row] += turns[row] + continuation.ids
            budgets = {row: continuation.budget for row, continuation in continuations.items()}

    def _generate(self, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
        with self._turn_settings(max_tokens):
            _, completion_ids, *_ = self.generation.generate(prompts=prompts, images=None, num_generations=1)
        return completion_ids

    @contextmanager
    def _turn_settings(self, max_tokens: int) -> Iterator[None]:
        """Stops and length of a turn in place of those of a whole completion."""
        generation = self.generation
        before = generation.generation_kwargs, generation.max_completion_length
        generation.generation_kwargs = before[0] | {"stop": self.stop_strings, "include_stop_str_in_output": True}
        generation.max_completion_length = max_tokens
        try:
            yield
        finally:
            generation.generation_kwargs, generation.max_completion_length = before
