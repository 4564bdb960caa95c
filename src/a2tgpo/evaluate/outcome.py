"""Hold what is asked and the scored answer to it: the records that policies, runs, recipes and reports share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from a2tgpo.errors import DataError
from a2tgpo.files import new_file, read_jsonl
from a2tgpo.rollout.types import NOT_THE_POLICYS
from a2tgpo.text_match import contains_answer, exact_match, f1_score

Measure = Literal["exact_match", "success", "reward"]
"""Judge an answer or an episode: by its gold answer, by the environment's word, or by what it gave."""

Key = tuple[str, str, int]
"""Benchmark, question id, sample: what is asked once in a run."""


@dataclass(frozen=True)
class Asked:
    """Hold one question to be answered once; `sample` counts the answers to the same question from 0."""

    row: dict[str, Any]
    sample: int = 0

    @property
    def key(self) -> Key:
        return self.row["dataset"], self.row["id"], self.sample

    def seed(self, base: int) -> int:
        """Return a seed of its own, the same in every run with seed `base`."""
        return int.from_bytes(hashlib.sha256(repr((base, *self.key)).encode()).digest()[:4], "big") >> 1


@dataclass(frozen=True)
class Outcome:
    """Hold what was predicted for a question, how good it is, how the rollout went.

    Attributes:
        answer: accepted answers, all aliases.
        dataset: the benchmark the question belongs to.
        prediction: the policy's answer; None where the rollout gave none, which scores 0 everywhere.
        correct: exact match (`exact_match`), or the environment's word where it says whether the episode was solved.
        f1: best token F1 over the aliases, in [0, 1] (`f1_score`).
        contains: whether the prediction contains an alias (`contains_answer`).
        termination: a value of `Termination`; `reason` is the sentence behind it.
        policy_tokens: tokens the policy wrote.
        total_tokens: the whole context at the end, prompt and results included.
        text: the rollout as text.
        sample: which of the question's answers this is, from 0, where several are sampled.
        success: whether the environment calls the episode solved; None where it does not say.
        reward: what the environment gave for the whole episode; None where it gave nothing, or failed.
    """

    id: str
    question: str
    answer: list[str]
    hops: int | None
    dataset: str
    prediction: str | None
    correct: bool
    f1: float
    contains: bool
    termination: str
    reason: str
    searches: int
    queries: list[str]
    policy_tokens: int
    total_tokens: int
    text: str
    sample: int = 0
    success: bool | None = None
    reward: float | None = None

    @property
    def score(self) -> float:
        """Return the reward where the environment gave one and does not say what success is; else 1 or 0."""
        return float(self.correct) if self.success is not None or self.reward is None else self.reward

    @classmethod
    def of(
        cls,
        row: Mapping[str, Any],
        *,
        prediction: str | None,
        termination: str,
        reason: str,
        searches: int,
        queries: Sequence[str],
        policy_tokens: int,
        total_tokens: int,
        text: str,
        sample: int = 0,
        success: bool | None = None,
        reward: float | None = None,
    ) -> Outcome:
        """Score `prediction` for a question of `load_questions`, or a row of an environment."""
        answers, scored = list(row["answer"]), prediction or None  # an empty answer is right about nothing
        return cls(
            id=row["id"],
            question=row["question"],
            answer=answers,
            hops=row["hops"],
            dataset=row["dataset"],
            prediction=prediction,
            correct=exact_match(scored, answers) if success is None else success,
            f1=f1_score(scored, answers),
            contains=contains_answer(scored, answers),
            termination=termination,
            reason=reason,
            searches=searches,
            queries=list(queries),
            policy_tokens=policy_tokens,
            total_tokens=total_tokens,
            text=text,
            sample=sample,
            success=success,
            reward=reward,
        )


def measure_of(outcomes: Iterable[Outcome]) -> Measure:
    """Return what `Outcome.score` is of these: exact match only where there is an answer to match."""
    success = rewarded = False
    answered, n_outcomes = False, 0
    for outcome in outcomes:
        success, rewarded = success or outcome.success is not None, rewarded or outcome.reward is not None
        answered, n_outcomes = answered or bool(outcome.answer), n_outcomes + 1
    return "success" if success else "reward" if rewarded or (n_outcomes and not answered) else "exact_match"


def episode_reward(
    given: float | None, row: Mapping[str, Any], termination: str | None, *, gives_reward: bool
) -> float | None:
    """Return the reward of an episode: 0 where an environment that gives rewards gave none, unless it failed the
    episode, or the row has an answer to judge by."""
    if given is None and gives_reward and not row["answer"] and termination not in NOT_THE_POLICYS:
        return 0.0
    return given


class Policy(Protocol):
    """Answer questions.

    `done` gets one outcome for each of `asked`, in any order, as soon as it is there. A failure of one question is an
    outcome that says so; what stops everything is raised, after which the outcomes already given still count.
    """

    def answer(self, asked: Sequence[Asked], done: Callable[[Outcome], None]) -> None: ...


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Write one JSON line per outcome; the file appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for outcome in outcomes:
            file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the outcomes in a file of one JSON line each.

    Raises:
        DataError: a line is none; names it.
    """
    return [_outcome(row, f"{path}, line {number}") for number, row in read_jsonl(path, DataError)]


def _outcome(row: dict[str, Any], place: str) -> Outcome:
    try:
        return Outcome(**row)
    except TypeError as error:
        raise DataError(f"{place}: not an outcome ({error})") from error
