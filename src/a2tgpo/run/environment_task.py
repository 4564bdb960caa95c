"""Open a task that is not search: the environment of a recipe, rows to play, demonstrations of how."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from a2tgpo.data.formats import load_rows
from a2tgpo.environments.toolbox import MakeRows, open_environment
from a2tgpo.errors import DataError, RecipeError, ToolError
from a2tgpo.gold import read_aliases
from a2tgpo.pipeline.plugins import load_function
from a2tgpo.rewards import environment_reward, exact_match_reward
from a2tgpo.rollout.agent import Agent
from a2tgpo.rollout.demonstration import within
from a2tgpo.rollout.played_demonstration import play_demonstrations
from a2tgpo.rollout.turn_protocol import TagProtocol, ToolCallProtocol, TurnProtocol
from a2tgpo.run.base_task import N_EVAL, N_TRAIN, Encoded, Task

if TYPE_CHECKING:
    from a2tgpo.run.recipe import Recipe, RunConfig

Rows = list[dict[str, Any]]


class EnvironmentTask(Task):
    """Play rows in an environment, or ask questions that tools answer.

    Raises:
        RecipeError: a path leads nowhere, or to no environment; or nobody makes rows.
        DataError: rows that cannot be played.
        ToolError: an MCP server does not answer.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        recipe = config.recipe
        self._opened = open_environment(
            recipe.environment, recipe.environment_arguments, recipe.tools or (), recipe.call_limits
        )
        self.environment = self._opened.source
        try:
            self.train_rows, self.eval_questions = self._rows(recipe)
            answered = any(row["answer"] for row in self.train_rows)
            if not (answered or self._opened.rewards or recipe.reward):
                raise RecipeError(
                    f"tools={recipe.tools!r} give no reward: give the rows an answer, or reward: module:function"
                )
        except BaseException:
            self.close()
            raise
        self.gives_reward = self._opened.rewards
        self.rewards = [environment_reward if self.gives_reward else exact_match_reward]
        self.train_dataset = Dataset.from_list(self.train_rows)
        if not answered:
            self.train_dataset = self.train_dataset.remove_columns("answer")

    def agent(self, tokenizer: PreTrainedTokenizerBase) -> Agent:
        recipe, template = self.config.recipe, self.config.training.chat_template_kwargs
        return Agent(
            tokenizer,
            self.environment,
            self.limits,
            recipe.system_prompt,
            self._protocol(tokenizer),
            template,
            recipe.instruction,
        )

    def demonstrations(self, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        recipe = self.config.recipe
        assert recipe.demonstrations is not None, "a recipe with a warm start has demonstrations"
        play = load_function("demonstrations", recipe.demonstrations)
        n = recipe.warm_start_steps * recipe.warm_start_batch_size
        rows = list(itertools.islice(itertools.cycle(self.train_rows), n))
        return within(play_demonstrations(self.agent(tokenizer), rows, play), self.limits)

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Begin the episode of the first row, and see that what the method reads will be there.

        Raises:
            DataError: what the environment says first does not fit into a prompt.
            RecipeError: the environment fails, or nobody knows the answer whose probability is to be read.
        """
        training, row = self.config.training, self.train_rows[0]
        method = training.resolve_method()
        try:
            episodes = self.environment.open(branching=method.shares_turns and training.max_steps != 0)
        except ValueError as error:
            raise RecipeError(f"method {method.name!r}: {error}") from error
        try:
            begun = episodes.reset({0: row})[0]
        finally:
            episodes.close()
        if isinstance(begun, ToolError):
            raise RecipeError(f"the environment cannot begin the first row, {_short(row)}: {begun}")
        self.agent(tokenizer).encode_prompt(row["prompt"], begun)
        gains = training.process_signal in ("policy", "reference") and self.config.recipe.turn_signal is None
        known = self._opened.reveals_answer or "answer" in self.train_dataset.column_names
        if training.max_steps != 0 and method.signal and gains and not known:
            raise RecipeError(
                f"method {training.method!r} reads how much more probable each turn makes the gold answer, and nobody "
                "knows it: give the rows an answer or the environment an attribute `answer`, or judge turns by "
                "process_signal: environment, or turn_signal"
            )

    def close(self) -> None:
        self._opened.close()

    def _protocol(self, tokenizer: PreTrainedTokenizerBase) -> TurnProtocol:
        recipe = self.config.recipe
        tools, shown = self.environment.tools, recipe.observation_tokens
        if recipe.protocol == "tags":
            return TagProtocol(tokenizer, tools, recipe.passage_tokens, shown)
        if not getattr(tokenizer, "response_template", None):
            from trl.chat_template_utils import add_response_schema

            try:
                tokenizer = add_response_schema(tokenizer)
            except ValueError as error:
                raise RecipeError(f"protocol='tools': {error}; give protocol: tags") from error
        template = self.config.training.chat_template_kwargs
        try:
            return ToolCallProtocol(
                tokenizer, tools, template, shown or 3 * recipe.passage_tokens, recipe.passage_tokens
            )
        except ValueError as error:
            raise RecipeError(f"protocol='tools': {error}") from error

    def _rows(self, recipe: Recipe) -> tuple[Rows, Rows]:
        if recipe.questions is not None:
            assert recipe.eval_questions is not None, "checked with the recipe"
            train: Sequence[Any] = _read(recipe.questions, "train", recipe.n_train_questions)
            held_out: Sequence[Any] = _read(recipe.eval_questions, "dev", recipe.n_eval_questions)
        else:
            train, held_out = self._made_rows(recipe)
        name = (recipe.environment or "tools").rpartition(":")[2]
        return [_row(row, i, name) for i, row in enumerate(train)], [
            _row(row, i, name) for i, row in enumerate(held_out)
        ]

    def _made_rows(self, recipe: Recipe) -> tuple[Sequence[Any], Sequence[Any]]:
        """Make rows once, so that those held out are none of those trained on."""
        make: MakeRows | None = self._opened.rows if recipe.rows is None else load_function("rows", recipe.rows)
        if make is None:
            raise RecipeError(
                f"environment={recipe.environment!r} has no method rows(n, seed): give rows: package.module:function, "
                "or questions and eval_questions"
            )
        n_train, n_eval = recipe.n_train_questions or N_TRAIN, recipe.n_eval_questions or N_EVAL
        given = make(n_train + n_eval, recipe.world_seed)
        if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
            raise DataError(
                f"rows({n_train + n_eval}, {recipe.world_seed}) made {_short(given)}; return a list of rows"
            )
        made = list(itertools.islice(given, n_train + n_eval))  # a generator may go on for ever
        if len(made) < n_train + n_eval:
            raise DataError(
                f"rows({n_train + n_eval}, {recipe.world_seed}) made {len(made)} rows; give n_train_questions and "
                "n_eval_questions that are no more than that together"
            )
        held_out = made[n_train : n_train + n_eval]
        trained_on = {_key(row) for row in made[:n_train]}
        if twice := next((row for row in held_out if _key(row) in trained_on), None):
            raise DataError(
                f"rows({n_train + n_eval}, {recipe.world_seed}) made {_short(twice)} twice: nothing would be held out; "
                "make rows that differ, or fewer"
            )
        return made[:n_train], held_out


def _read(sources: Sequence[str], split: str, limit: int | None) -> Rows:
    rows = [row for source in sources for row in load_rows(source, split=split)]
    # A shuffled prefix keeps every source's share.
    return random.Random(0).sample(rows, min(limit or len(rows), len(rows)))


def _row(row: Any, number: int, name: str) -> dict[str, Any]:
    """Return a row with the columns that every row has: prompt, question, id, dataset, hops, answer.

    Raises:
        DataError: it has nothing to ask.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"row {number} is {_short(row)}; give a mapping with a prompt")
    prompt = row.get("prompt") if row.get("prompt") is not None else row.get("question")
    if not isinstance(prompt, str) and not (isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping)):
        raise DataError(f"row {number} has the prompt {prompt!r}; give text or chat messages")
    question = row.get("question") or (prompt if isinstance(prompt, str) else str(prompt[-1].get("content", "")))
    identifier = row.get("id")
    return {
        **row,
        "prompt": prompt,
        "question": question,
        "id": str(number if identifier is None else identifier),
        "dataset": str(row.get("dataset") or name),
        "hops": row.get("hops"),
        "answer": read_aliases(row.get("answer", row.get("golden_answers")), f"row {number}"),
    }


def _key(row: Any) -> str:
    return json.dumps(row, sort_keys=True, default=str)


def _short(value: Any) -> str:
    return repr(value)[:120]
