"""Run one evaluation from its settings to its outcomes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from a2tgpo.errors import PolicyServerError, RecipeError, ToolError
from a2tgpo.evaluate.answers_file import Answers, open_answers
from a2tgpo.evaluate.benchmarks import load_benchmark
from a2tgpo.evaluate.dialogue import UNPARSED
from a2tgpo.evaluate.outcome import Asked, Outcome, Policy
from a2tgpo.rollout.types import Termination

if TYPE_CHECKING:
    from rich.console import Console

    from a2tgpo.evaluate.eval_config import EvalConfig
    from a2tgpo.rollout.agent import BatchedSearch

OUTAGE = 20
"""Answers in a row that the search tool failed, or the first ones that the server did, after which the run stops."""

_TOOL_FAILED, _SERVER_FAILED = "the search tool failed", "the server failed"


def evaluate(config: EvalConfig, console: Console) -> list[Outcome]:
    """Ask what the run's folder does not answer yet, and return all outcomes in the order of questions and samples.

    Raises:
        RecipeError: the folder holds a run with other settings, or the policy cannot be loaded.
        DataError: a benchmark cannot be loaded, or has no answers.
        IndexMismatch, RetrieverError, ToolError: the search tool is unusable, or gone.
        PolicyServerError: the policy's server is gone, or fails every answer.
    """
    questions = {
        benchmark.name: load_benchmark(
            benchmark, n_questions=config.n_questions, only_answerable=config.only_answerable, seed=config.seed
        )
        for benchmark in config.sources
    }
    asked = [Asked(row, n) for rows in questions.values() for row in rows for n in range(config.samples)]
    fingerprints = {f"questions of {name}": fingerprint(rows) for name, rows in questions.items()}
    return answer_all(
        lambda: open_policy(config, _open_search(config)),
        asked,
        config.folder,
        config.settings | fingerprints,
        console,
    )


def answer_all(
    make_policy: Callable[[], Policy],
    asked: Sequence[Asked],
    folder: Path,
    settings: Mapping[str, Any],
    console: Console,
) -> list[Outcome]:
    """Ask a policy what `folder` does not answer yet, and return all outcomes in the order of `asked`.

    Raises:
        RecipeError: the folder holds a run with other settings, or what `make_policy` raises.
        ToolError, PolicyServerError: the tool or the policy's server is gone, or fails every answer.
    """
    with open_answers(folder, settings) as answers, _saying_what_is_kept(answers.folder):
        missing = [question for question in asked if not answers.settled(question.key)]
        _say_what_stands(answers, len(asked), len(missing), console)
        if missing:
            _ask(make_policy(), missing, answers, len(asked))
        outcomes = [answers.outcomes[question.key] for question in asked]
        _refuse_one_failure(outcomes)
    return outcomes


def open_policy(config: EvalConfig, search: BatchedSearch) -> Policy:
    """Open the policy that `config` names."""
    if config.base_url is not None:
        return _server_policy(config, config.base_url, search)
    from a2tgpo.evaluate.local_policy import LocalPolicy, checkpoint_engine
    from a2tgpo.pretrained import check_chat_template, open_tokenizer
    from a2tgpo.rollout.agent import SearchAgent
    from a2tgpo.rollout.protocol import INSTRUCTION

    tokenizer = open_tokenizer(config.model)
    system_prompt = INSTRUCTION if config.system_message is None else config.system_message or None
    check_chat_template(tokenizer, system_prompt)
    agent = SearchAgent(
        tokenizer,
        search,
        config.limits,
        system_prompt,
        instruction=config.instruction,
        result_format=config.result_format,
    )
    if config.engine == "vllm":
        from a2tgpo.evaluate.local_policy import vllm_engine

        longest = config.max_prompt_tokens + config.max_completion_length
        engine = vllm_engine(config.model, temperature=config.temperature, max_tokens=longest, seed=config.seed)
    else:
        engine = checkpoint_engine(
            config.model, tokenizer, temperature=config.temperature, rows_at_a_time=config.concurrency
        )
    return LocalPolicy(agent, engine, config.concurrency, config.seed)


def _server_policy(config: EvalConfig, base_url: str, search: BatchedSearch) -> Policy:
    from a2tgpo.environments.search_environment import SearchEnvironment
    from a2tgpo.evaluate.server_policy import open_server_policy

    return open_server_policy(
        base_url,
        config.model,
        SearchEnvironment(search),
        config.limits,
        protocol=config.protocol,
        api_key_env=config.api_key_env,
        timeout_s=config.timeout_s,
        system_prompt=config.system_message,
        instruction=config.instruction,
        result_format=config.result_format,
        temperature=config.temperature,
        seed=config.seed,
        concurrency=config.concurrency,
    )


def _open_search(config: EvalConfig) -> BatchedSearch:
    from a2tgpo.environments.search import SearchTool
    from a2tgpo.retrieval.source import open_retriever

    retriever = open_retriever(config.retriever, config.search_timeout_s, cache=config.search_cache)
    return SearchTool(retriever, k=config.passages_per_search, timeout_s=config.search_timeout_s)


def _ask(policy: Policy, missing: Sequence[Asked], answers: Answers, total: int) -> None:
    with tqdm(total=total, initial=total - len(missing), desc="questions", unit="question") as bar:
        policy.answer(missing, _keeper(answers, bar))


@contextmanager
def _saying_what_is_kept(folder: Path) -> Iterator[None]:
    kept = f"what was answered is kept in {folder}, and the same command goes on"
    try:
        yield
    except (PolicyServerError, ToolError) as error:
        raise type(error)(f"{error}; {kept}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept) from None


def _keeper(answers: Answers, bar: tqdm[Any]) -> Callable[[Outcome], None]:
    """Return what keeps each outcome, and stops a run in which one thing fails all the time."""
    last, in_a_row = None, 0
    worked = any(_failure(outcome) is None for outcome in answers.outcomes.values())

    def keep(outcome: Outcome) -> None:
        nonlocal last, in_a_row, worked
        answers.add(outcome)
        bar.update()
        failure = _failure(outcome)
        in_a_row = in_a_row + 1 if failure == last else 1
        last, worked = failure, worked or failure is None
        # A server that answered others may refuse many questions in a row, those too long for it.
        if failure is not None and in_a_row >= OUTAGE and (failure == _TOOL_FAILED or not worked):
            raise _stopped_by(failure, f"{OUTAGE} answers in a row", outcome)

    return keep


def _failure(outcome: Outcome) -> str | None:
    """Name what failed an answer, if not the policy: as the beginning of a sentence."""
    if outcome.termination == Termination.TOOL_FAILED.value:
        return _TOOL_FAILED
    if outcome.termination == Termination.MODEL_FAILED.value:
        return _SERVER_FAILED
    return UNPARSED if outcome.reason.startswith(UNPARSED) else None


def _stopped_by(failure: str, which: str, last: Outcome) -> ToolError | PolicyServerError | RecipeError:
    if failure == UNPARSED:
        text = last.reason.removeprefix(f"{UNPARSED}: ")
        return RecipeError(
            f"protocol='tools': {UNPARSED} in {which}, the last with: {text}. Start it with a parser for this model's "
            "calls (vLLM: --enable-auto-tool-choice --tool-call-parser NAME) and choose another output_dir"
        )
    error = ToolError if failure == _TOOL_FAILED else PolicyServerError
    return error(f"{failure} {which}, the last with: {last.reason}")


def _refuse_one_failure(outcomes: Sequence[Outcome]) -> None:
    """Raise where one thing failed every answer, of fewer than `OUTAGE`: that is no score of zero."""
    (failure, *others) = {_failure(outcome) for outcome in outcomes}
    if failure is not None and not others:
        raise _stopped_by(failure, "every answer", outcomes[-1])


def _say_what_stands(answers: Answers, n_asked: int, n_missing: int, console: Console) -> None:
    if answers.dropped:
        console.print(f"dropped a last line of {answers.dropped} bytes that a crash had cut off")
    if answers.outcomes:
        console.print(f"{n_asked - n_missing} of {n_asked} answers are here already")


def fingerprint(rows: list[dict[str, Any]]) -> str:
    """Return the SHA-256 of ids, questions and answers."""
    asked = [[row["id"], row["question"], row["answer"]] for row in rows]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
