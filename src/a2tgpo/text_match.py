"""Compare an answer with the accepted ones: exact match, F1 and containment over SQuAD's normal form."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Return SQuAD's normal form (Rajpurkar 2016): lower case, single spaces, no ASCII punctuation, no article."""
    without_punctuation = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLE.sub(" ", without_punctuation).split())


def exact_match(prediction: str | None, answers: Sequence[str]) -> bool:
    """Say whether `prediction` equals any alias after normalisation; None, no answer at all, never does."""
    if prediction is None:
        return False
    return normalize_answer(prediction) in {normalize_answer(answer) for answer in answers}


_CLOSED = frozenset({"yes", "no", "noanswer"})


def f1_score(prediction: str | None, answers: Sequence[str]) -> float:
    """Return the best F1 = 2·shared / (|prediction| + |alias|) over the aliases, in [0, 1]; None scores 0.

    Tokens are the words of the normal form (`normalize_answer`), shared ones counted as often as both have them.
    Without a shared token it is 0, even where both are empty (SQuAD v1.1, Rajpurkar 2016).

    HotpotQA's scorer (Yang 2018) adds a rule that SQuAD's has not: where either text is just "yes", "no" or "noanswer",
    F1 is 1 if they are equal and 0 if not, so that "no idea" earns nothing for "no". HotpotQA and 2WikiMultihopQA score
    so, and FlashRAG does on every data set. Here too it holds on every benchmark: a score then means the same in each
    column. Where no gold is such a word, only a prediction that is one scores differently than in SQuAD.
    """
    if prediction is None:
        return 0.0
    found = normalize_answer(prediction)
    return max((_f1(found, normalize_answer(answer)) for answer in answers), default=0.0)


def _f1(found: str, gold: str) -> float:
    if found != gold and _CLOSED & {found, gold}:
        return 0.0
    tokens, gold_tokens = found.split(), gold.split()
    shared = (Counter(tokens) & Counter(gold_tokens)).total()
    return 2 * shared / (len(tokens) + len(gold_tokens)) if shared else 0.0


def contains_answer(prediction: str | None, answers: Sequence[str]) -> bool:
    """Say whether any alias's normal form is a substring of the prediction's; None, no answer at all, has none.

    This is FlashRAG's `acc` and Search-R1's `subem`, so that numbers compare with theirs. It is lenient: a long
    prediction holds more, and a substring need not end at a word ("no" is in "unknown"). One rule is ours: an alias of
    which normalisation leaves nothing ("A") is in a prediction of which nothing is left either, not in every one.
    """
    if prediction is None:
        return False
    found = normalize_answer(prediction)
    return any(gold in found if gold else not found for gold in map(normalize_answer, answers))
