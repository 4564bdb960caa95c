"""Token F1 between a prediction and its best alias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from a2tgpo.text_match import normalize_answer

_CLOSED = frozenset({"yes", "no", "noanswer"})


def f1_score(prediction: str | None, answers: Sequence[str]) -> float:
    """Best F1 = 2·shared / (|prediction| + |alias|) over the aliases, in [0, 1]; None, no answer at all, scores 0.

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
