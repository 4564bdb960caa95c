"""Read an answer and compare it with the accepted ones: LaTeX around plain text, exact match, F1, containment."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

_LATEX = re.compile(r"\\([A-Za-z]+)\*?[ \t]*|\\(.)|([{}~]|[^\\{}~]+|\\)", re.DOTALL)
"""A command with the space after it, an escaped sign, or what is neither."""

_AROUND_TEXT = re.compile(
    "text(bf|it|rm|sf|tt|sc|up|md|sl|normal)?|emph|underline|[mhf]box|math(rm|bf|it|sf|tt|normal)|boldsymbol|bm"
    "|operatorname|boxed|bf|it|rm|sf|tt|em|(bf|rm|sf|tt)(series|family)|itshape|normalfont|(display|text)style"
    "|large|Large|normalsize|small|left|right"
)
"""Commands that print their argument, or what follows, as it is."""
_CHARACTERS = {
    **dict.fromkeys(("quad", "qquad", "space", "enspace", "thinspace", "nobreakspace", "newline"), " "),
    **{"textdollar": "$", "textbackslash": "\\", "textasciitilde": "~", "textunderscore": "_"},
    **{"ldots": "…", "dots": "…", "textendash": "–", "textemdash": "—", "textquotesingle": "'"},
}
_ESCAPED = {sign: sign for sign in "{}$%&#_"} | dict.fromkeys(" ,;:>~\n\t\\", " ") | dict.fromkeys("!/()[]", "")


def plain_text(latex: str) -> str:
    """Return the text that LaTeX prints of `latex`, without outer space; of mathematics, the source as it is.

    `\\text{Bora}`, `\\textbf{\\mathrm{Bora}}`, `{\\bf Bora}` and `$Bora$` are Bora. `\\{`, `\\}`, `\\$`, `\\%`, `\\&`,
    `\\#` and `\\_` are the signs; `\\ `, `\\,`, `\\quad` and `~` are spaces. Commands that print no plain text, such as
    `\\frac{1}{2}`, stay with their braces. A text without a backslash is no LaTeX and stays, but for a pair of `$`.
    """
    text = latex.strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and text.count("$") - text.count("\\$") == 2:
        text = text[1:-1].strip()
    if "\\" not in text:
        return text
    if latex.rstrip().endswith("\\") and latex != latex.rstrip():
        text += " "  # its last sign is an escaped space
    printed: list[str] = []
    closing: list[str] = []  # how the closing brace of each open group is printed
    brace = ""  # how the next opening one is: the group of a command that stays keeps its braces
    for token in _LATEX.finditer(text):
        command, sign, other = token.groups()
        stays = False
        if other == "{":
            printed.append(brace)
            closing.append("}" if brace else "")
        elif other == "}":
            printed.append(closing.pop() if closing else other)
            stays = printed[-1] == "}"  # \frac{1}{2}: its next group stays as well
        elif other:
            printed.append(" " if other == "~" else other)
            stays = other.endswith(("_", "^"))
        elif sign:
            printed.append(_ESCAPED.get(sign, f"\\{sign}"))
        elif not _AROUND_TEXT.fullmatch(command):
            printed.append(_CHARACTERS.get(command, token[0]))
            stays = command not in _CHARACTERS
        brace = "{" if stays else ""
    return " ".join("".join(printed).split())


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
