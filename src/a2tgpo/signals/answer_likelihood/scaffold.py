"""Put a gold answer into the text in which it is scored, and mark which tokens are the answer's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from a2tgpo.signals.answer_likelihood.device import upload
from a2tgpo.signals.answer_likelihood.trajectories import IGNORED

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Integer
    from transformers import PreTrainedTokenizerBase

PLACEHOLDER = "{answer}"
OPENING = "<think>"
TAIL = 32
"""Tokens at the end of a prompt in which an open thought is looked for."""


@dataclass(frozen=True)
class AnswerSuffix:
    """Hold a tokenised scaffold with one answer in it, ending at the answer's last token: what is teacher-forced.

    `is_answer[j]` says whether token j contains a character of the answer. Only those tokens are scored.
    """

    ids: tuple[int, ...]
    is_answer: tuple[bool, ...]


@dataclass(frozen=True)
class AnswerScaffold:
    r"""Hold the words around the gold answer when its likelihood is read (A²TGPO, arXiv 2605.06200).

    `template` holds `{answer}` exactly once; every other character, braces included, stands for itself:
    `"<think> I have the answer . </think> <answer> \boxed{ {answer} } </answer>"`. Write it the way the
    policy itself would answer, or the likelihood measures surprise at the wording.

    Raises `ValueError` when the placeholder is missing or repeated, or takes the place of a command's braces.
    """

    template: str

    def __post_init__(self) -> None:
        if self.template.count(PLACEHOLDER) != 1:
            raise ValueError(
                f"template must contain {PLACEHOLDER} exactly once, got {self.template!r}; "
                f"put {PLACEHOLDER} where the gold answer belongs."
            )
        if bare := re.search(r"(\\[a-zA-Z]+)\{answer\}", self.template):
            raise ValueError(
                f"template {self.template!r} would read {bare[1]}Paris, since the braces around answer are the "
                f"placeholder's; write {bare[1]}{{{PLACEHOLDER}}}."
            )

    @property
    def inside_thought(self) -> AnswerScaffold:
        """Return the scaffold of a policy whose prompt has opened the thought: the same without the tag."""
        return AnswerScaffold(self.template.lstrip().removeprefix(OPENING).lstrip()) if self.opens else self

    @property
    def opens(self) -> bool:
        """Tell whether the scaffold opens a thought."""
        return self.template.lstrip().startswith(OPENING)

    def encode(self, tokenizer: PreTrainedTokenizerBase, answer: str) -> AnswerSuffix:
        """Tokenise the scaffold around `answer`, without special tokens, and find the answer by offsets.

        A token counts as the answer's when it covers at least one of the answer's characters, also when it
        begins in the scaffold. What follows the last such token is left out: a causal model cannot see it.
        Encodings are cached per tokenizer, template and answer.

        Raises `ValueError` for an answer that is blank, has no token of its own or one that stands for unknown text,
        and for a tokenizer that cannot report offsets.
        """
        before, _, after = self.template.partition(PLACEHOLDER)
        return _encode(tokenizer, before, answer, after)


def opens_thought(tokenizer: PreTrainedTokenizerBase, before: Sequence[int]) -> bool:
    """Tell whether the policy's turn after the tokens `before` begins inside a thought.

    Chat templates of thinking models end the prompt in `<think>`.
    """
    return tokenizer.decode(list(before[-TAIL:])).rstrip().endswith(OPENING)


@lru_cache(maxsize=1 << 16)
def _encode(tokenizer: PreTrainedTokenizerBase, before: str, answer: str, after: str) -> AnswerSuffix:
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
    own_ids = [token for token, scored in zip(encoding["input_ids"], is_answer, strict=True) if scored]
    if tokenizer.unk_token_id in own_ids:
        raise ValueError(
            f"answer {answer!r} holds text that this tokenizer can only write as {tokenizer.unk_token}; its likelihood "
            "would be that of any such text. Correct the answer, drop the question, or use a tokenizer that covers its "
            "script."
        )
    length = max(column for column, scored in enumerate(is_answer) if scored) + 1
    return AnswerSuffix(tuple(encoding["input_ids"][:length]), tuple(is_answer[:length]))


@dataclass(frozen=True)
class SuffixBatch:
    """Hold the suffixes of B rollouts, A aliases each, right-padded to M tokens. A missing alias has no token.

    Two rollouts, the first with one alias "rome" in the scaffold `it is {answer}`, the second with "paris" and "york":

        ids        [[[2, 3, 7], [0, 0, 0]], [[2, 3, 6], [2, 3, 9]]]
        is_token   [[[1, 1, 1], [0, 0, 0]], [[1, 1, 1], [1, 1, 1]]]
        is_answer  [[[0, 0, 1], [0, 0, 0]], [[0, 0, 1], [0, 0, 1]]]
    """

    ids: Integer[Tensor, "B A M"]
    is_token: Bool[Tensor, "B A M"]
    is_answer: Bool[Tensor, "B A M"]

    @classmethod
    def stack(cls, suffixes: Sequence[Sequence[AnswerSuffix]]) -> SuffixBatch:
        """Pad the suffixes of each rollout to one shape."""
        n_aliases = max(len(aliases) for aliases in suffixes)
        length = max(len(suffix.ids) for aliases in suffixes for suffix in aliases)
        ids = torch.zeros(len(suffixes), n_aliases, length, dtype=torch.long)
        is_token = torch.zeros_like(ids, dtype=torch.bool)
        is_answer = torch.zeros_like(is_token)
        for row, aliases in enumerate(suffixes):
            for alias, suffix in enumerate(aliases):
                n_tokens = len(suffix.ids)
                ids[row, alias, :n_tokens] = torch.tensor(suffix.ids)
                is_token[row, alias, :n_tokens] = True
                is_answer[row, alias, :n_tokens] = torch.tensor(suffix.is_answer)
        return cls(ids, is_token, is_answer)

    @property
    def n_tokens(self) -> Integer[Tensor, " B"]:
        """Count the tokens of a rollout's suffixes after one boundary."""
        return self.is_token.sum((1, 2))

    @property
    def labels(self) -> Integer[Tensor, "B A M"]:
        """Name the tokens whose log-probability is read; `IGNORED` elsewhere."""
        return self.ids.masked_fill(~self.is_answer, IGNORED)

    def mean(self, total: Float[Tensor, "B K A"]) -> Float[Tensor, "B K A"]:
        """Divide summed log-probabilities by the number of answer tokens; a missing alias becomes −inf."""
        n_answer = upload(self.is_answer.sum(-1)[:, None], total.device)
        return (total / n_answer.clamp(min=1)).masked_fill(n_answer == 0, -torch.inf)

    def take(self, rows: Sequence[int]) -> SuffixBatch:
        """Keep these rollouts alone."""
        index = list(rows)
        return SuffixBatch(self.ids[index], self.is_token[index], self.is_answer[index])
