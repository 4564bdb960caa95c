"""Containment: whether a prediction mentions an accepted answer."""

from __future__ import annotations

from collections.abc import Sequence

from a2tgpo.text_match import normalize_answer


def contains_answer(prediction: str | None, answers: Sequence[str]) -> bool:
    """Whether the normal form of any alias is a substring of the prediction's; None, no answer at all, never does.

    This is FlashRAG's `acc` and Search-R1's `subem`, so that numbers compare with theirs. It is lenient: a long
    prediction holds more, and a substring need not end at a word ("no" is in "unknown"). One rule is ours: an alias of
    which normalisation leaves nothing ("A") is in a prediction of which nothing is left either, not in every one.
    """
    if prediction is None:
        return False
    found = normalize_answer(prediction)
    return any(gold in found if gold else not found for gold in map(normalize_answer, answers))
