"""A checkpoint in vLLM's offline engine."""

from __future__ import annotations

from typing import Any

from a2tgpo.errors import RecipeError
from a2tgpo.pretrained import resolve
from a2tgpo.rollout.backend import Backend
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.rollout.vllm import VLLMBackend


class OfflineEngine:
    """What `VLLMBackend` needs of TRL's engine, on a `vllm.LLM` of our own."""

    def __init__(self, llm: Any, make_params: Any, temperature: float) -> None:
        self._llm, self._make_params = llm, make_params
        self.generation_kwargs: dict[str, Any] = {"temperature": temperature}
        self.max_completion_length = 1
        self.logprobs: int | None = None

    def generate(
        self, prompts: list[list[int]], images: None, num_generations: int
    ) -> tuple[list[list[int]], list[list[int]], None, None]:
        """One completion for each of `prompts`, with the attributes' settings."""
        assert images is None and num_generations == 1 and self.logprobs is None
        params = self._make_params(max_tokens=self.max_completion_length, **self.generation_kwargs)
        outputs = self._llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return prompts, [list(output.outputs[0].token_ids) for output in outputs], None, None


def vllm_backend(name: str, *, temperature: float, max_tokens: int, seed: int) -> Backend:
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
    return VLLMBackend(OfflineEngine(llm, SamplingParams, temperature), STOP_STRINGS)
