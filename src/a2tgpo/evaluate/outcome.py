"""One answered question with its scores: the record that runs, recipes, comparisons and reports share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from a2tgpo.errors import DataError
from a2tgpo.evaluate.containment import contains_answer
from a2tgpo.evaluate.f1 import f1_score
from a2tgpo.files import new_file, read_jsonl
from a2tgpo.text_match import exact_match


@dataclass(frozen=True)
class Outcome:
    """What was predicted for a question, how good it is, how the rollout went.

    Attributes:
        answer: accepted answers, all aliases.
        dataset: the benchmark the question belongs to.
        prediction: the policy's answer; None where the rollout gave none, which scores 0 everywhere.
        correct: exact match (`exact_match`).
        f1: best token F1 over the aliases, in [0, 1] (`f1_score`).
        contains: whether the prediction contains an alias (`contains_answer`).
        termination: a value of `Termination`; `reason` is the sentence behind it.
        policy_tokens: tokens the policy wrote.
        total_tokens: the whole context at the end, prompt and results included.
        text: the rollout as text.
        sample: which of the question's answers this is, from 0, where several are sampled.
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
    ) -> Outcome:
        """Score `prediction` for a question of `load_questions`."""
        answers = list(row["answer"])
        return cls(
            id=row["id"],
            question=row["question"],
            answer=answers,
            hops=row["hops"],
            dataset=row["dataset"],
            prediction=prediction,
            correct=exact_match(prediction, answers),
            f1=f1_score(prediction, answers),
            contains=contains_answer(prediction, answers),
            termination=termination,
            reason=reason,
            searches=searches,
            queries=list(queries),
            policy_tokens=policy_tokens,
            total_tokens=total_tokens,
            text=text,
            sample=sample,
        )


def write_outcomes(path: Path, outcomes: Iterable[Outcome]) -> None:
    """One JSON line per outcome; the file appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for outcome in outcomes:
            file.write(json.dumps(asdict(outcome), ensure_ascii=False) + "\n")


def read_outcomes(path: Path) -> list[Outcome]:
    """The outcomes in a file of one JSON line each.

    Raises:
        DataError: a line is none; names it.
    """
    return [_outcome(row, f"{path}, line {number}") for number, row in read_jsonl(path, DataError)]


def _outcome(row: dict[str, Any], place: str) -> Outcome:
    try:
        return Outcome(**row)
    except TypeError as error:
        raise DataError(f"{place}: not an outcome ({error})") from error
