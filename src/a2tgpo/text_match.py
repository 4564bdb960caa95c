"""Exact match after SQuAD normalisation, the paper's outcome measure."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """SQuAD's normal form: lower case, no ASCII punctuation, no English article, single spaces (Rajpurkar 2016)."""
    without_punctuation = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", without_punctuation).split())


def exact_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether `prediction` equals any alias after normalisation; None, no answer at all, never does."""
    if prediction is None:
        return False
    return normalize_answer(prediction) in {normalize_answer(answer) for answer in answers}
