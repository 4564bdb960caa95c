"""Policies whose tokens are at hand: the agent loop of training, in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import set_seed

from a2tgpo.errors import ToolError
from a2tgpo.evaluate.outcome import Outcome
from a2tgpo.evaluate.policies.policy import Asked
from a2tgpo.evaluate.questions import evaluate_questions
from a2tgpo.rollout.agent import SearchAgent
from a2tgpo.rollout.engine import GenerationEngine
from a2tgpo.rollout.types import Termination


@dataclass(frozen=True)
class LocalPolicy:
    """`Policy` of a checkpoint: `batch_size` questions generate and search together, token by token as in training.

    With sampling, transformers draws a batch from the seed of its first question; vLLM goes on from its engine's seed.
    """

    agent: SearchAgent
    backend: GenerationEngine
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
            return evaluate_questions(self.agent, self.backend, rows, batch_size=len(rows))
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
