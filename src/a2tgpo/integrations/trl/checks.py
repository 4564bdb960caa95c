"""Checks at construction: a run that cannot give per-turn credit ends before it starts, and says why."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from trl.trainer.utils import is_async_callable

from a2tgpo.errors import DataError
from a2tgpo.gold import gold_aliases, read_aliases
from a2tgpo.methods import METHODS, Method
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import Agent, SearchAgent

if TYPE_CHECKING:
    from trl import GRPOConfig

    from a2tgpo.signals.answer_likelihood import AnswerScorer

logger = logging.getLogger(__name__)


def check_model(model: Any, *, is_multimodal: bool) -> None:
    """Raise `ValueError` for a model whose turns cannot be scored."""
    if is_multimodal:
        raise ValueError(
            "processing_class is a multimodal processor: answer likelihoods are read from text alone; "
            "pass a text model and its tokenizer"
        )
    if is_peft_model(model) and model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"peft_config is a {type(model.active_peft_config).__name__}: the virtual tokens it puts before "
            "the text are in no mask, so that turns and their log-probabilities would not line up; use LoRA"
        )


def check_rollouts(rollout_func: Any, method: Method) -> None:
    """Raise `ValueError` where the rollouts share turns otherwise than the method expects."""
    grown = getattr(rollout_func, "sampling", None)
    if method.shares_turns and grown != method.sampling:
        raise ValueError(
            f"rollout_func grows {grown}: method {method.name!r} compares rollouts that share turns; pass "
            f"rollout_func=TagRollout(agent, sampling={method.sampling})"
        )


def check_logprobs(logprobs: Any, *, corrects_vllm: bool) -> None:
    """Raise `ValueError` where TRL is to correct for another engine whose log-probabilities nobody gave."""
    if logprobs is None and corrects_vllm:
        raise ValueError(
            "rollout_func returned logprobs=None: with use_vllm=True TRL corrects for what vLLM drew otherwise than "
            "the policy; return vLLM's log-probability of each completion token (0 for the environment's), or set "
            "vllm_importance_sampling_correction=False"
        )


def check_whole_groups(method: Method, rows_per_process: int, group_size: int) -> None:
    """Raise `ValueError` where rollouts of a prompt that branch off each other would lie in two processes."""
    if method.shares_turns and rows_per_process % group_size:
        raise ValueError(
            f"num_generations={group_size}: rollouts of method {method.name!r} branch off each other in one process, "
            f"which generates {rows_per_process}; make per_device_train_batch_size × steps_per_generation a multiple "
            f"of {group_size}"
        )


def check_answers(dataset: Any, scorer: AnswerScorer, *, revealed: bool = False) -> None:
    """Raise `DataError` unless every row has an answer with tokens to score.

    Streamed data sets are checked batch by batch while training, since they cannot be read twice.

    Args:
        revealed: whether environments may name the answer instead of a column.
    """
    if isinstance(dataset, dict):
        for part in dataset.values():
            check_answers(part, scorer, revealed=revealed)
        return
    if not isinstance(dataset, Dataset):
        return
    if "answer" not in dataset.column_names:
        if revealed:
            return
        raise DataError(
            f"the data set has columns {dataset.column_names} and no 'answer': information gain is the change in "
            "the gold answer's probability; add a column 'answer' (text, or a list of aliases), give environments an "
            "attribute `answer`, judge turns by something else (turn_signal=, process_signal=), or take a method "
            "without gains (method='grpo', 'dapo', 'gspo', 'gigpo')"
        )
    for row, answer in enumerate(dataset["answer"]):
        for alias in read_aliases(answer, f"row {row}") if revealed else gold_aliases(answer, f"row {row}"):
            try:
                scorer.scaffold.encode(scorer.tokenizer, alias)
            except ValueError as error:
                raise DataError(f"row {row} has answer={answer!r}: {error}") from error


def reveals_answers(rollout_func: Any, environment_factories: Mapping[str | None, Any] | None) -> bool:
    """Return whether episodes may name their answer: an environment of ours, or one of TRL's with `answer`."""
    if environment_factories is not None:
        return any(_has_answer(factory) for factory in environment_factories.values())
    agent = getattr(rollout_func, "agent", None)
    return isinstance(agent, Agent) and not isinstance(agent, SearchAgent)


def _has_answer(factory: Any) -> bool:
    names = {*getattr(factory, "__annotations__", ()), *dir(factory)}
    return "answer" in names or hasattr(factory(), "answer")


def aliases_of_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the gold answers of each row, none for a row without."""
    return [read_aliases(row.get("answer"), f"row {number}") for number, row in enumerate(rows)]


def require_answers(
    rows: Sequence[Mapping[str, Any]], answers: Sequence[Sequence[str]], failed: Sequence[bool]
) -> None:
    """Raise `DataError` for a row without a gold answer, unless its rollout `failed` before one could be revealed."""
    for number, (row, found, without) in enumerate(zip(rows, answers, failed, strict=True)):
        if not found and not without:
            gold_aliases(row.get("answer"), f"row {number}")


def check_traps(
    datasets: Iterable[Any],
    *,
    tools: Any,
    in_environments: bool,
    reward_funcs: Sequence[Any],
    scaffold: str | None,
    method: Method,
) -> None:
    """Raise `ValueError`, or warn, for what trains without a word and learns nothing.

    Args:
        datasets: for training and evaluation.
        tools: TRL's, called through the chat template.
        in_environments: whether TRL's environments may say what the policy reads.
        reward_funcs: as the user gave them.
        scaffold: `answer_scaffold`, where gold answers are scored in it.
        method: with the clip range in use.
    """
    for dataset in datasets:
        for part in dataset.values() if isinstance(dataset, dict) else [dataset]:
            if not isinstance(part, Dataset) or not len(part):
                continue
            if "prompt" not in part.column_names and not in_environments:
                raise DataError(
                    f"the data set has columns {part.column_names} and no 'prompt': rename the one that the policy "
                    "is to read"
                )
            if tools:
                check_prompts([part[0].get("prompt")])
    if exact_match_reward in reward_funcs and scaffold is not None and "\\boxed{" not in scaffold:
        raise ValueError(
            f"answer_scaffold={scaffold!r} has no \\boxed{{}}, which exact_match_reward asks of every answer: the "
            "reward would be −1 throughout, or the gain that of a sentence the reward forbids; write the scaffold as "
            "the policy is to answer, or pass a reward of your own"
        )
    usual = METHODS[method.name]
    for name, bound, its in (
        ("epsilon", method.eps_low, usual.eps_low),
        ("epsilon_high", method.eps_high, usual.eps_high),
    ):
        if usual.ratio != "token" and bound > 10 * its:
            logger.warning(
                "%s=%s is %.0f times that of method %r, whose ratio is a mean over a %s: hardly any %s will be "
                "clipped. Leave epsilon and epsilon_high out to train as published.",
                *(name, bound, bound / its, method.name, usual.ratio, usual.ratio),
            )
            break


def check_prompts(prompts: Iterable[Any]) -> None:
    """Raise `DataError` for a text prompt where tools are called through the chat template, in which TRL crashes."""
    for row, prompt in enumerate(prompts):
        if isinstance(prompt, str):
            raise DataError(
                f"row {row} has the text prompt {prompt[:60]!r}, and tools= are called through the chat "
                'template; give prompts as messages: [{"role": "user", "content": ...}]'
            )


def refuse_nan(reward_funcs: Any) -> Any:
    """Wrap each reward function so that a NaN it returns raises.

    TRL turns None, its word for "does not apply", into NaN and skips it; a NaN that a function computed would pass
    for one of those and silently drop the rollout.
    """
    if isinstance(reward_funcs, list):
        return [refuse_nan(reward) for reward in reward_funcs]
    plain = callable(reward_funcs) and not isinstance(reward_funcs, str) and not hasattr(reward_funcs, "config")
    if not plain or is_async_callable(reward_funcs):
        return reward_funcs

    @functools.wraps(reward_funcs, updated=())
    def checked(*args: Any, **kwargs: Any) -> Any:
        return _without_nan(reward_funcs, reward_funcs(*args, **kwargs))

    if not hasattr(reward_funcs, "__name__"):
        checked.__name__ = type(reward_funcs).__name__
    return checked


def _without_nan(function: Callable[..., Any], rewards: Iterable[float | None]) -> list[float | None]:
    rewards = list(rewards)
    for row, reward in enumerate(rewards):
        if reward is not None and math.isnan(reward):
            name = getattr(function, "__name__", type(function).__name__)
            raise ValueError(
                f"reward function {name!r} returned NaN for rollout {row}: return a number, or None for a rollout "
                "it does not apply to"
            )
    return rewards


def check_batch_size(n_prompts: int, args: GRPOConfig) -> None:
    """Refuse a training set from which no batch can be drawn: TRL drops an incomplete one, and nothing is trained.

    A generation batch takes `generation_batch_size / num_generations` different prompts.

    Args:
        n_prompts: rows of the training set.

    Raises:
        DataError: there are fewer; the message has the number needed.
    """
    needed = args.generation_batch_size // args.num_generations
    if n_prompts < needed:
        raise DataError(
            f"{n_prompts} training prompts, and a batch takes {needed} (generation_batch_size="
            f"{args.generation_batch_size} rollouts, num_generations={args.num_generations} of each): no update could "
            f"be made. Give at least {needed}, or a smaller per_device_train_batch_size or steps_per_generation"
        )
