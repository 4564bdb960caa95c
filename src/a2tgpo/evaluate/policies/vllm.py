"""A checkpoint in vLLM's offline engine."""

from __future__ import annotations

from typing import Any

from a2tgpo.errors import RecipeError
from a2tgpo.pretrained import resolve
from a2tgpo.rollout.engine import GenerationEngine, Turn
from a2tgpo.rollout.lockstep_engine import LockstepEngine, TurnSampling
from a2tgpo.rollout.protocol import STOP_STRINGS


class OfflineEngine:
    """Generate turns with a `vllm.LLM`: a `TokenEngine`, for evaluation, which asks for no entropies."""

    def __init__(self, llm: Any, make_params: Any, temperature: float) -> None:
        self._llm, self._make_params, self._temperature = llm, make_params, temperature

    def generate(self, prompts: list[list[int]], sampling: TurnSampling) -> list[Turn]:
        """Write one turn after each of `prompts`."""
        assert sampling.n_entropies == 0, "evaluation does not branch"
        params = self._make_params(
            temperature=self._temperature,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop_strings),
            include_stop_str_in_output=True,
        )
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [Turn(list(output.outputs[0].token_ids)) for output in outputs]


def vllm_backend(name: str, *, temperature: float, max_tokens: int, seed: int) -> GenerationEngine:
    """Generation by the causal LM `name` with prefix caching, so that a turn only reads what is new in its context.

    Args:
        name: folder or Hub name.
        temperature: 0 for greedy.
        max_tokens: longest context, prompt included.
        seed: of the engine.

    Raises:
        RecipeError: vLLM is missing, or does not take the model.
    """
    try:
        from vllm import LLM, SamplingParams
    except ImportError as error:
        raise RecipeError("engine='vllm' needs vLLM: pip install 'a2tgpo[vllm]'") from error
    try:
        llm = LLM(model=resolve(name), max_model_len=max_tokens, enable_prefix_caching=True, seed=seed)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model {name!r} cannot be loaded by vLLM: {str(error).strip().splitlines()[0]}") from error
    return LockstepEngine(OfflineEngine(llm, SamplingParams, temperature), STOP_STRINGS)
