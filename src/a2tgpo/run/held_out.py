"""Evaluate a policy on a recipe's held-out questions, greedily and sampled, and lay the numbers out as a table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from tqdm.auto import tqdm
from transformers import GenerationConfig, PreTrainedModel, set_seed

from a2tgpo import processes
from a2tgpo.evaluate.outcome import Outcome, read_outcomes, write_outcomes
from a2tgpo.evaluate.questions import Summary, evaluate_questions
from a2tgpo.evaluate.statistics import Mean, Proportion
from a2tgpo.rollout.agent import Agent
from a2tgpo.rollout.hf_generate_engine import transformers_engine
from a2tgpo.rollout.types import NOT_THE_POLICYS
from a2tgpo.run.directory import MODES
from a2tgpo.tables import Rows, markdown_table, terminal_table

if TYPE_CHECKING:
    from a2tgpo.run.base_task import Task
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.recipe import RunConfig

_INLINE, _STACKED = "{:.3f} [{:.2f}, {:.2f}]", "{:.3f}\n{:.2f}–{:.2f}"


def evaluate_policy(
    model: PreTrainedModel, agent: Agent, task: Task, directory: RunDirectory, name: str
) -> dict[str, Summary]:
    """Return the summaries of `name` in both modes; outcomes already on disk are read, not computed again."""
    return {
        f"{name}, {mode}": Summary.of(
            answer_questions(model, agent, task, directory.evaluation(f"{name}_{mode}"), mode)
        )
        for mode in MODES
    }


def answer_questions(model: PreTrainedModel | None, agent: Agent, task: Task, path: Path, mode: str) -> list[Outcome]:
    """Return the outcomes of the policy in `mode` on the task's held-out rows, those in `path` if it is there; then the
    policy may be None.

    Several processes share the questions: each asks its copy of the policy every N-th. A collective.
    """
    known = processes.on_main(lambda: read_outcomes(path) if path.exists() else None)
    if known is not None:
        return known
    assert model is not None, f"{path} is not there, and nobody to ask"
    config, questions = task.config, task.eval_questions
    mine = questions[processes.rank() :: processes.size()]
    set_seed(config.training.seed + processes.rank())
    backend = transformers_engine(
        model,
        agent.tokenizer,
        sampling_config(agent, config, mode),
        agent.protocol.stop_strings,
        config.recipe.rows_per_generation,
    )
    name, quiet = path.stem.replace("_", " "), processes.rank() > 0
    with torch.no_grad(), tqdm(total=len(mine), desc=name, unit="question", disable=quiet) as bar:
        outcomes = evaluate_questions(
            agent,
            backend,
            mine,
            batch_size=config.recipe.eval_batch_size,
            progress=bar.update,
            gives_reward=task.gives_reward,
        )
    numbered = range(processes.rank(), len(questions), processes.size())
    joined = dict(processes.gather(list(zip(numbered, outcomes, strict=True))))
    outcomes = [joined[number] for number in range(len(questions))]
    processes.on_main(lambda: write_outcomes(path, outcomes))
    return outcomes


def sampling_config(agent: Agent, config: RunConfig, mode: str) -> GenerationConfig:
    """Return greedy settings, or those of the sampling the policy is trained with.

    What is left unset here, `generate` takes from the model's own defaults, which training overrides too.
    """
    training = config.training
    common = {"pad_token_id": agent.tokenizer.pad_token_id, "repetition_penalty": training.repetition_penalty}
    if mode == "greedy":
        return GenerationConfig(do_sample=False, **common)
    sampling = {name: getattr(training, name) for name in ("temperature", "top_p", "top_k", "min_p")}
    return GenerationConfig(do_sample=True, **common | sampling | (training.generation_kwargs or {}))


def summary_rows(summaries: Mapping[str, Summary], share: str = _INLINE) -> tuple[list[str], Rows]:
    """Return header and rows, a row a summary: right answers or episodes solved, by hops too, rewards, each with its
    95 % interval; then calls, format rate, and the episodes that the environment failed, where there are any.

    `share` formats a number and the two ends of its interval.
    """
    measures = dict.fromkeys(summary.measure for summary in summaries.values() if summary.correct is not None)
    rewarded = any(summary.reward is not None for summary in summaries.values())
    hops = sorted({hop for summary in summaries.values() for hop in summary.by_hops})
    searched = set(measures) == {"exact_match"} and not rewarded
    failed = {
        name: sum(summary.terminations.get(kind, 0) for kind in NOT_THE_POLICYS) for name, summary in summaries.items()
    }
    header = [
        "",
        *(measure.replace("_", " ") for measure in measures),
        *(f"{hop} hop" + "s" * (hop > 1) for hop in hops),
        *["reward"] * rewarded,
        "searches" if searched else "calls",
        "format",
        *["failed"] * any(failed.values()),
    ]
    rows = [
        [
            name,
            *(_format(share, summary.correct) if summary.measure == measure else "" for measure in measures),
            *(_format(share, summary.by_hops[hop]) if hop in summary.by_hops else "" for hop in hops),
            *[_mean(share, summary.reward)] * rewarded,
            f"{summary.searches:.2f}",
            f"{summary.format_rate:.3f}",
            *[str(failed[name])] * any(failed.values()),
        ]
        for name, summary in summaries.items()
    ]
    return header, rows


def title(summaries: Mapping[str, Summary]) -> str:
    """Say what was asked or played, and how it was measured."""
    measures = dict.fromkeys(summary.measure.replace("_", " ") for summary in summaries.values())
    rewarded = any(summary.reward is not None for summary in summaries.values())
    asked = "questions" if [*measures] == ["exact match"] and not rewarded else "episodes"
    return f"{asked}: {' and '.join(measures)} with 95 % interval"


def as_table(summaries: Mapping[str, Summary], title: str) -> Table:
    """Lay out for the terminal: intervals below their shares, so that three hop counts fit into 80 columns."""
    return terminal_table(title, *summary_rows(summaries, _STACKED))


def as_markdown(summaries: Mapping[str, Summary]) -> str:
    """Lay out for `summary.md`."""
    return markdown_table(*summary_rows(summaries))


def _format(template: str, share: Proportion | None) -> str:
    return "–" if share is None else template.format(share.value, *share.interval)


def _mean(template: str, mean: Mean | None) -> str:
    if mean is None:
        return "–"
    if mean.low is None or mean.high is None:
        return f"{mean.value:.3f}"
    return template.format(mean.value, mean.low, mean.high)
