"""The text in which a gold answer is scored, and which of its tokens are the answer's."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{answer}"


@dataclass(frozen=True)
class Probe:
    """A tokenised scaffold with one answer in it, ending at the answer's last token.

    `is_answer[j]` says whether token j contains a character of the answer. Only those tokens are scored.
    """

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


@dataclass(frozen=True)
class AnswerScaffold:
    r"""The words around the gold answer when its likelihood is read (A²TGPO, arXiv 2605.06200).

    `template` holds `{answer}` exactly once; every other character, braces included, stands for itself:
    `"<think> I have the answer . </think> <answer> \boxed{ {answer} } </answer>"`. Write it the way the
    policy itself would answer, or the likelihood measures surprise at the wording.

    Raises `ValueError` when the placeholder is missing or repeated.
    """

    template: str

    def __post_init__(self) -> None:
        if self.template.count(PLACEHOLDER) != 1:
            raise ValueError(
                f"template must contain {PLACEHOLDER} exactly once, got {self.template!r}; "
                f"put {PLACEHOLDER} where the gold answer belongs."
            )

    def encode(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> Probe:
        """Tokenise the scaffold around `answer`, without special tokens, and find the answer by offsets.

        A token counts as the answer's when it covers at least one of the answer's characters, also when it
        begins in the scaffold. What follows the last such token is left out: a causal model cannot see it.
        Encodings are cached per tokenizer, template and answer.

        Raises `ValueError` for an answer that is blank or has no token of its own, and for a tokenizer
        that cannot report offsets.
        """
        before, _, after = self.template.partition(PLACEHOLDER)
        return _encode(tokenizer, before, answer, after)


@lru_cache(maxsize=1 << 16)
def _encode(tokenizer: PreTrainedTokenizerBase, before: str, answer: str, after: str) -> Probe:
    if not answer.strip():
        raise ValueError(f"answer {answer!r} is blank; give every question at least one non-blank gold answer.")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"tokenizer {type(tokenizer).__name__} reports no character offsets, so an answer's tokens "
            "cannot be located; load this model's fast tokenizer (one with a tokenizer.json)."
        )
    encoding = tokenizer(before + answer + after, add_special_tokens=False, return_offsets_mapping=True)
    first, last = len(before), len(before) + len(answer)
    is_answer = [start < last and end > first for start, end in encoding["offset_mapping"]]
    if not any(is_answer):
        raise ValueError(
            f"answer {answer!r} has no token in this tokenizer's vocabulary; correct the answer, drop the "
            "question, or use a tokenizer that covers its script."
        )
    length = max(column for column, scored in enumerate(is_answer) if scored) + 1
    return Probe(tuple(encoding["input_ids"][:length]), tuple(is_answer[:length]))
