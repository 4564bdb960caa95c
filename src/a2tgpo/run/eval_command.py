"""Run `a2tgpo eval` in its three forms: on benchmarks, on a recipe's held-out questions, or to compare two runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError
from a2tgpo.evaluate.eval_config import EvalConfig
from a2tgpo.files import new_file

if TYPE_CHECKING:
    from rich.console import Console

    from a2tgpo.evaluate.outcome import Policy
    from a2tgpo.run.base_task import Task
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.recipe import RunConfig

_USAGE = """a2tgpo eval --model MODEL --benchmarks NAME[=FILE],... --retriever URL|INDEX --output_dir DIR [--flag ...]
       a2tgpo eval --compare DIR DIR [--output_dir DIR]
       a2tgpo eval RECIPE.yaml [--model MODEL [--base_url URL]] --output_dir DIR [--key value ...]"""
_SUMMARY = "evaluate a policy: on benchmarks, or on a recipe's held-out questions; compare two evaluations"


def add_eval_command(commands: Any) -> None:
    """Add `eval` to the subparsers of the command line."""
    command = commands.add_parser(
        "eval",
        help=_SUMMARY,
        usage=_USAGE,
        description=_SUMMARY,
        epilog="With a recipe the flags are its keys, such as --max_steps 50; `a2tgpo keys` lists them all. --import "
        "MODULE imports a module of yours first, such as one that registers the policy's architecture.",
        allow_abbrev=False,
    )
    command.add_argument("recipe", metavar="RECIPE.yaml", nargs="?", help="evaluate on this recipe's questions")
    command.add_argument("--compare", metavar="DIR", nargs=2, help="the paired difference, first minus second")
    for flag in fields(EvalConfig):
        _add_flag(command, flag)
    command.set_defaults(run=run_eval)


def _add_flag(command: argparse.ArgumentParser, flag: Any) -> None:
    options = {name: flag.metadata[name] for name in ("type", "choices") if name in flag.metadata}
    meaning = flag.metadata["help"]
    if flag.type == "bool":
        options |= {"nargs": "?", "const": True, "type": _boolean}
    elif flag.default not in (None, MISSING):
        meaning += f" (default: {flag.default})"
    command.add_argument(f"--{flag.name}", help=meaning, default=argparse.SUPPRESS, **options)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def run_eval(arguments: argparse.Namespace, unknown: list[str], console: Console) -> int:
    """Evaluate, or compare two evaluations.

    Raises:
        RecipeError: flags that are unknown, missing or contradict.
    """
    given = {flag.name: getattr(arguments, flag.name) for flag in fields(EvalConfig) if flag.name in arguments}
    form = "--benchmarks" if arguments.compare is None else "--compare"
    if arguments.recipe is not None:
        if arguments.compare is None and "benchmarks" not in given:
            return _evaluate_recipe(arguments.recipe, given, unknown, console)
        unknown = [*unknown, arguments.recipe]  # or the value of an unknown flag
    if form == "--benchmarks":
        unknown = _import_modules(unknown)
    if unknown:
        raise RecipeError(f"`a2tgpo eval {form}` does not know {' '.join(unknown)!r}; see a2tgpo eval --help")
    if arguments.compare is not None:
        if given.keys() - {"output_dir"}:
            raise RecipeError("--compare takes two evaluations, and of the other flags --output_dir alone")
        first, second = arguments.compare
        return _compare(first, second, given.get("output_dir"), console)
    missing = [flag.name for flag in fields(EvalConfig) if flag.default is MISSING and flag.name not in given]
    if missing:
        raise RecipeError(f"--{' --'.join(missing)} missing: see a2tgpo eval --help")
    return _evaluate_benchmarks(EvalConfig(**given), console)


def _import_modules(unknown: list[str]) -> list[str]:
    """Import what `--import` names, such as a module that registers the policy's architecture; return the rest."""
    if "--import" not in unknown:
        return unknown
    from a2tgpo.run.recipe_file import import_plugins

    rest = import_plugins({}, unknown)
    return rest[: rest.index("--plugins")]


def _evaluate_recipe(recipe: str, given: Mapping[str, Any], unknown: list[str], console: Console) -> int:
    """Evaluate the policy `recipe` names, or `given["model"]`, greedily and sampled as in training.

    The same command again goes on: what was evaluated is read, and what was not is evaluated.

    Raises:
        RecipeError: the recipe or a flag is refused, or the output directory holds a training run, or an evaluation of
            another recipe, model or other questions.
    """
    from a2tgpo.evaluate.answers_file import check_settings
    from a2tgpo.evaluate.benchmark_run import fingerprint
    from a2tgpo.messages import quieten
    from a2tgpo.pretrained import check_chat_template
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.held_out import as_table, evaluate_policy, title
    from a2tgpo.run.recipe_file import load_recipe
    from a2tgpo.run.recipe_policy import load_model, load_tokenizer
    from a2tgpo.run.task import open_task

    quieten()
    if "base_url" in given:
        return _ask_server(recipe, given, unknown, console)
    config = load_recipe(recipe, [*unknown, *_as_keys(given)])
    name = config.model.model_name_or_path
    directory = RunDirectory(Path(config.training.output_dir))
    with directory.locked(), ExitStack() as stack:
        _check_goes_on(directory, config)
        stack.enter_context(task := open_task(config, directory))
        agent = task.agent(load_tokenizer(name, config))
        check_chat_template(agent.tokenizer, config.recipe.system_prompt, config.training.chat_template_kwargs)
        model = load_model(name, config)
        asked = {"model": name, "questions": fingerprint(task.eval_questions)}
        check_settings(directory.evaluation_settings, asked, directory.root)
        directory.begin({key: value for key, value in config.given.items() if key != "resume_from_checkpoint"})
        try:
            summaries = evaluate_policy(model, agent, task, directory, "eval")
        except KeyboardInterrupt:
            kept = f"what was evaluated is kept in {directory.root}, and the same command goes on"
            raise KeyboardInterrupt(kept) from None
    console.print(as_table(summaries, f"{name}, {title(summaries)}"))
    return 0


_OF_THE_SERVER = ("model", "base_url", "api_key_env", "timeout_s", "concurrency")


def _ask_server(recipe: str, given: Mapping[str, Any], unknown: list[str], console: Console) -> int:
    """Evaluate a model behind an OpenAI-compatible server on a recipe's held-out rows, greedily and sampled.

    The same command again goes on with what has no answer yet.

    Raises:
        RecipeError: see `_evaluate_recipe`.
        PolicyServerError, ToolError: the server or the environment is gone; earlier answers are kept.
    """
    from a2tgpo.evaluate.answers_file import check_settings
    from a2tgpo.evaluate.benchmark_run import answer_all, fingerprint
    from a2tgpo.evaluate.outcome import Asked, write_outcomes
    from a2tgpo.evaluate.questions import Summary
    from a2tgpo.run.directory import MODES, RunDirectory
    from a2tgpo.run.held_out import as_table, title
    from a2tgpo.run.recipe_file import load_recipe
    from a2tgpo.run.task import open_task

    if "model" not in given:
        raise RecipeError("--base_url without --model: give the server's name of the model")
    keys = {name: value for name, value in given.items() if name not in _OF_THE_SERVER}
    config = load_recipe(recipe, [*unknown, *_as_keys(keys)])
    directory = RunDirectory(Path(config.training.output_dir))
    summaries = {}
    with directory.locked(), ExitStack() as stack:
        _check_goes_on(directory, config)
        stack.enter_context(task := open_task(config, directory))
        asked = {"model": given["model"], "base_url": given["base_url"], "questions": fingerprint(task.eval_questions)}
        check_settings(directory.evaluation_settings, asked, directory.root)
        directory.begin({key: value for key, value in config.given.items() if key != "resume_from_checkpoint"})
        for mode in MODES:
            temperature = 0.0 if mode == "greedy" else config.training.temperature
            outcomes = answer_all(
                partial(_server_policy, given, config, task, temperature),
                [Asked(row) for row in task.eval_questions],
                directory.root / "eval" / mode,
                asked | {"temperature": temperature},
                console,
            )
            write_outcomes(directory.evaluation(f"eval_{mode}"), outcomes)
            summaries[f"eval, {mode}"] = Summary.of(outcomes)
    console.print(as_table(summaries, f"{given['model']}, {title(summaries)}"))
    return 0


def _server_policy(given: Mapping[str, Any], config: RunConfig, task: Task, temperature: float) -> Policy:
    from a2tgpo.evaluate.server_policy import open_server_policy

    recipe = config.recipe
    return open_server_policy(
        given["base_url"],
        given["model"],
        task.environment,
        task.limits,
        protocol=recipe.protocol,
        api_key_env=given.get("api_key_env"),
        timeout_s=given.get("timeout_s", 120.0),
        system_prompt=recipe.system_prompt,
        temperature=temperature,
        seed=config.training.seed,
        concurrency=given.get("concurrency", 16),
        instruction=recipe.instruction,
        result_format=recipe.result_format,
        observation_tokens=recipe.observation_tokens,
        gives_reward=task.gives_reward,
    )


def _check_goes_on(directory: RunDirectory, config: RunConfig) -> None:
    """Refuse a directory that holds anything but nothing, or an evaluation of the same recipe."""
    from a2tgpo.run.resume import check_same_recipe

    if directory.evaluation_settings.exists():
        if directory.config.exists():
            check_same_recipe(directory, config)
        return
    if directory.config.exists():
        raise RecipeError(
            f"output_dir={str(directory.root)!r} holds a training run, and no evaluation to go on with: choose another "
            "--output_dir"
        )
    if config.resumes:
        directory.check_begun()


def _as_keys(given: Mapping[str, Any]) -> list[str]:
    """Return flags that benchmarks have too as the recipe's keys; those it does not know it refuses."""
    named = {"model_name_or_path" if name == "model" else name: value for name, value in given.items()}
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]


def _evaluate_benchmarks(config: EvalConfig, console: Console) -> int:
    from a2tgpo.evaluate.benchmark_run import evaluate
    from a2tgpo.evaluate.score_tables import as_json, as_markdown, as_terminal
    from a2tgpo.evaluate.scores import Scores
    from a2tgpo.messages import quieten

    quieten()
    scores = {config.model: Scores.of(evaluate(config, console))}
    _write(config.folder / "table.md", as_markdown(scores))
    _write(config.folder / "summary.json", json.dumps(as_json(scores), indent=2, allow_nan=False))
    console.print(as_terminal(scores))
    console.print(f"everything is in {config.folder}", soft_wrap=True, highlight=False)
    return 0


def _compare(first: str, second: str, folder: str | None, console: Console) -> int:
    from a2tgpo.evaluate.answers_file import read_answers
    from a2tgpo.evaluate.outcome import measure_of
    from a2tgpo.evaluate.paired_comparison import compare
    from a2tgpo.evaluate.score_tables import (
        as_markdown,
        as_terminal,
        difference_as_json,
        difference_as_markdown,
        difference_as_terminal,
    )
    from a2tgpo.evaluate.scores import Scores

    answers = {name: read_answers(Path(name)) for name in (first, second)}
    measure = measure_of(outcome for outcomes in answers.values() for outcome in outcomes)
    scores = {name: Scores.of(outcomes, measure) for name, outcomes in answers.items()}
    comparison = compare(answers[first], answers[second])
    console.print(as_terminal(scores))
    console.print(difference_as_terminal(comparison, first, second))
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        both = f"{as_markdown(scores)}\n{difference_as_markdown(comparison, first, second)}"
        _write(Path(folder) / "comparison.md", both)
        numbers = json.dumps(difference_as_json(comparison, first, second), indent=2, allow_nan=False)
        _write(Path(folder) / "comparison.json", numbers)
    return 0


def _write(path: Path, text: str) -> None:
    with new_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
