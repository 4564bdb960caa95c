"""Greedy and sampled evaluation of a policy on held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, set_seed

from a2tgpo.evaluate.outcome import Outcome, read_outcomes, write_outcomes
from a2tgpo.evaluate.questions import Summary, evaluate_questions
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.hf_generate_engine import transformers_engine
from a2tgpo.rollout.protocol import STOP_STRINGS

if TYPE_CHECKING:
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.recipe import RunConfig

MODES = ("greedy", "sampled")


def evaluate_policy(
    model: PreTrainedModel,
    agent: SearchAgent,
    questions: Sequence[dict[str, Any]],
    config: RunConfig,
    directory: RunDirectory,
    name: str,
) -> dict[str, Summary]:
    """Summaries of `name` in both modes; outcomes already on disk are read, not computed again."""
    return {
        f"{name}, {mode}": Summary.of(
            _outcomes(model, agent, questions, config, directory.evaluation(f"{name}_{mode}"), mode)
        )
        for mode in MODES
    }


def _outcomes(
    model: PreTrainedModel,
    agent: SearchAgent,
    questions: Sequence[dict[str, Any]],
    config: RunConfig,
    path: Path,
    mode: str,
) -> list[Outcome]:
    if path.exists():
        return read_outcomes(path)
    set_seed(config.training.seed)
    backend = transformers_engine(
        model, agent.tokenizer, sampling_config(agent, config, mode), STOP_STRINGS, config.recipe.rows_per_generation
    )
    with torch.no_grad(), tqdm(total=len(questions), desc=path.stem.replace("_", " "), unit="question") as bar:
        outcomes = evaluate_questions(
            agent, backend, questions, batch_size=config.recipe.eval_batch_size, progress=bar.update
        )
    write_outcomes(path, outcomes)
    return outcomes


def sampling_config(agent: SearchAgent, config: RunConfig, mode: str) -> GenerationConfig:
    """Greedy, or the sampling the policy is trained with.

    What is left unset here, `generate` takes from the model's own defaults, which training overrides too.
    """
    training = config.training
    common = {"pad_token_id": agent.tokenizer.pad_token_id, "repetition_penalty": training.repetition_penalty}
    if mode == "greedy":
        return GenerationConfig(do_sample=False, **common)
    sampling = {name: getattr(training, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    return GenerationConfig(do_sample=True, **common | sampling | (training.generation_kwargs or {}))
