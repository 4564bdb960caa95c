"""Read gold answers from `reward_model.ground_truth`, in whatever shape a data set has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from a2tgpo.errors import DataError

_NAMES = ("target", "answer", "answers", "ground_truth")
"""Keys under which data sets made for verl keep the answers of a ground truth that is a mapping."""


def gold_answers(reward_model: Any, row: str) -> list[str]:
    """Return the gold answers of one row, canonical first.

    Args:
        reward_model: the column of that name: `{"ground_truth": g}` with g a text, a number, a list or array of those,
            or a mapping with such a value under "target", "answer", "answers" or "ground_truth".
        row: names the row in errors.

    Raises:
        DataError: there is no answer, or one that is blank.
    """
    truth = reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None
    try:
        answers = list(dict.fromkeys(_texts(truth)))
    except TypeError as error:
        raise DataError(f"{row} has reward_model.ground_truth={truth!r}: {error}") from None
    if not answers or not all(answer.strip() for answer in answers):
        raise DataError(
            f"{row} has reward_model.ground_truth={truth!r}: information gain is the change in the gold answer's "
            "probability; give at least one text that is not blank, or drop the row"
        )
    return answers


def read_gold_answers(rows: Iterable[Any]) -> list[list[str]]:
    """Read the answers of a whole data set, given its column `reward_model`.

    Raises:
        DataError: see `gold_answers`.
    """
    return [gold_answers(reward_model, f"row {number} of the data set") for number, reward_model in enumerate(rows)]


def _texts(truth: Any) -> list[str]:
    if truth is None:
        return []
    if isinstance(truth, str):
        return [truth]
    if isinstance(truth, Mapping):
        name = next((name for name in _NAMES if truth.get(name) is not None), None)
        if name is None:
            raise TypeError(f"a mapping needs one of {', '.join(_NAMES)}")
        return _texts(truth[name])
    if hasattr(truth, "tolist"):  # an array or a scalar of numpy
        return _texts(truth.tolist())
    if isinstance(truth, Sequence | set | frozenset):
        return [text for part in truth for text in _texts(part)]
    if isinstance(truth, int | float):
        return [str(truth)]
    raise TypeError(f"expected texts, not {type(truth).__name__}")
