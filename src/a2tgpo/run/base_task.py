"""Define what a run plays: its rows, the agent that plays them, its rewards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from a2tgpo.environments.episodes import EnvironmentSource
from a2tgpo.rewards import exact_match_reward
from a2tgpo.rollout.agent import Agent, RolloutLimits

if TYPE_CHECKING:
    from a2tgpo.run.recipe import RunConfig

N_TRAIN, N_EVAL = 4000, 300
"""Generated rows, where a recipe gives no number."""

Encoded = list[dict[str, list[int]]]


class Task(ABC):
    """Hold what a run plays: rows to train on, rows held out, and the agent that plays them.

    Attributes:
        environment: answers the policy.
        rewards: the reward functions where the recipe names none.
        gives_reward: an episode has a reward, which is 0 where the environment gave none.
    """

    train_dataset: Dataset
    eval_questions: list[dict[str, Any]]
    environment: EnvironmentSource
    rewards: list[Callable[..., Any]]
    gives_reward: bool = False

    def __init__(self, config: RunConfig) -> None:
        recipe = config.recipe
        self.config = config
        self.rewards = [exact_match_reward]
        self.limits = RolloutLimits(
            max_searches=recipe.max_searches,
            max_completion_tokens=config.training.max_completion_length,
            max_turn_tokens=recipe.max_turn_tokens,
            max_prompt_tokens=recipe.max_prompt_tokens,
            passage_tokens=recipe.passage_tokens,
        )

    @property
    def eval_dataset(self) -> Dataset:
        """Return the held-out rows with the columns of those trained on, for TRL's own evaluation."""
        rows = [row | {"prompt": row.get("prompt") or row["question"]} for row in self.eval_questions]
        columns = [name for name in self.train_dataset.column_names if any(name in row for row in rows)]
        return Dataset.from_list(rows).select_columns(columns)

    @abstractmethod
    def agent(self, tokenizer: PreTrainedTokenizerBase) -> Agent:
        """Return the agent loop of this task for a policy's tokenizer."""

    @abstractmethod
    def demonstrations(self, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """Return tokenised demonstrations for the warm start.

        Raises:
            DataError: there is nothing to demonstrate, or nothing that keeps to the budgets of a rollout.
        """

    def check(self, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027
        """Refuse what would end a run in its first batch."""

    def close(self) -> None:  # noqa: B027
        """Let go of what the task holds open; the run is over."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()
