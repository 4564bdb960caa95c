"""The answer scorers of SQuAD v1.1 and HotpotQA, from their definitions and with other means than the package's.

SQuAD v1.1 (Rajpurkar 2016): lower the text, remove ASCII punctuation, replace each article that is a whole word by a
space, and join what white space separates with single spaces. Exact match is equality; F1 is the harmonic mean of the
precision and the recall of the bag of words, 0 where no word is shared; the best alias counts.

HotpotQA (Yang 2018): the same, but where either text is "yes", "no" or "noanswer", F1 is 0 unless they are equal.
"""

from __future__ import annotations

from itertools import groupby

PUNCTUATION = r"""!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~"""


def words(text: str) -> list[str]:
    """The words of the normal form."""
    kept = [letter for letter in text.lower() if letter not in PUNCTUATION]
    runs = ["".join(run) for _, run in groupby(kept, key=str.isalnum)]
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def exact(prediction: str, gold: str) -> bool:
    """Exact match in both scorers."""
    return words(prediction) == words(gold)


def squad_f1(prediction: str, gold: str) -> float:
    """F1 in SQuAD's."""
    left, found = words(gold), words(prediction)
    size, same = len(left), 0
    for word in found:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(found), same / size
    return 2 * precision * recall / (precision + recall)


def hotpot_f1(prediction: str, gold: str) -> float:
    """F1 in HotpotQA's."""
    closed = (["yes"], ["no"], ["noanswer"])
    if (words(prediction) in closed or words(gold) in closed) and words(prediction) != words(gold):
        return 0.0
    return squad_f1(prediction, gold)
