"""Evaluate a checkpoint, in transformers or vLLM, with the agent loop of training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, set_seed

from a2tgpo.errors import RecipeError, ToolError, needs_extra
from a2tgpo.evaluate.outcome import Asked, Outcome
from a2tgpo.evaluate.questions import evaluate_questions
from a2tgpo.pretrained import open_model, resolve
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.engine import GenerationEngine, Turn
from a2tgpo.rollout.hf_generate_engine import transformers_engine
from a2tgpo.rollout.lockstep_engine import LockstepEngine, TurnSampling
from a2tgpo.rollout.protocol import STOP_STRINGS
from a2tgpo.rollout.types import Termination


@dataclass(frozen=True)
class LocalPolicy:
    """Answer with a checkpoint: `batch_size` questions generate and search together, token by token as in training.

    With sampling, transformers draws a batch from the seed of its first question; vLLM goes on from its engine's seed.
    """

    agent: SearchAgent
    engine: GenerationEngine
    batch_size: int
    seed: int

    def answer(self, asked: Sequence[Asked], done: Callable[[Outcome], None]) -> None:
        for start in range(0, len(asked), self.batch_size):
            batch = asked[start : start + self.batch_size]
            set_seed(batch[0].seed(self.seed))
            for question, outcome in zip(batch, self._outcomes(batch), strict=True):
                done(replace(outcome, sample=question.sample))

    def _outcomes(self, batch: Sequence[Asked]) -> list[Outcome]:
        try:
            rows = [question.row for question in batch]
            return evaluate_questions(self.agent, self.engine, rows, batch_size=len(rows))
        except ToolError as error:  # in every rollout of the batch; whether the tool is gone, the run finds out
            return [_failed(question, str(error)) for question in batch]


def _failed(question: Asked, reason: str) -> Outcome:
    return Outcome.of(
        question.row,
        prediction=None,
        termination=Termination.TOOL_FAILED.value,
        reason=reason,
        searches=0,
        queries=[],
        policy_tokens=0,
        total_tokens=0,
        text="",
    )


def checkpoint_engine(
    name: str, tokenizer: PreTrainedTokenizerBase, *, temperature: float, rows_at_a_time: int
) -> GenerationEngine:
    """Return generation by the causal LM `name`: float32 on the CPU, in the checkpoint's own precision on a GPU.

    Nothing of the checkpoint's own sampling settings (top-k, top-p, penalties) applies.

    Raises:
        RecipeError: the model cannot be loaded.
    """
    device, dtype = ("cuda", "auto") if torch.cuda.is_available() else ("cpu", "float32")
    model = open_model(name, dtype=dtype).to(device).eval()
    return transformers_engine(model, tokenizer, _sampling(tokenizer, temperature), STOP_STRINGS, rows_at_a_time)


def _sampling(tokenizer: PreTrainedTokenizerBase, temperature: float) -> GenerationConfig:
    common = {"pad_token_id": tokenizer.pad_token_id, "repetition_penalty": 1.0}
    if temperature == 0:
        return GenerationConfig(do_sample=False, **common)
    return GenerationConfig(do_sample=True, temperature=temperature, top_k=0, top_p=1.0, **common)


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


def vllm_engine(name: str, *, temperature: float, max_tokens: int, seed: int) -> GenerationEngine:
    """Return generation by the causal LM `name` with prefix caching: a turn only reads what is new in its context.

    Args:
        name: folder or Hub name.
        temperature: 0 for greedy.
        max_tokens: longest context, prompt included.
        seed: of the engine.

    Raises:
        MissingExtra: vLLM is not installed.
        RecipeError: vLLM does not take the model.
    """
    with needs_extra("vllm", "engine='vllm'"):
        from vllm import LLM, SamplingParams
    try:
        llm = LLM(model=resolve(name), max_model_len=max_tokens, enable_prefix_caching=True, seed=seed)
    except (OSError, ValueError) as error:
        raise RecipeError(f"model {name!r} cannot be loaded by vLLM: {str(error).strip().splitlines()[0]}") from error
    return LockstepEngine(OfflineEngine(llm, SamplingParams, temperature), STOP_STRINGS)
