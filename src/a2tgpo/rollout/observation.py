"""Turn what an environment answers into tokens that cannot break out of their block."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from transformers import PreTrainedTokenizerBase

from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.protocol import RESULT_FORMAT, neutralise, render_result, tag_pattern

CHARACTERS_PER_TOKEN = 8
"""Characters tokenised for each token of a budget; eight times as many where these were not enough."""

_KEPT = 1024
"""Observations whose tokens are kept."""

Spelling = Callable[[str], str]


def _as_written(text: str) -> str:
    return text


def _normalised(text: str) -> str:
    """Spell compatible characters as their plain ones, and drop those that nobody sees."""
    text = unicodedata.normalize("NFKC", text)
    return "".join(character for character in text if unicodedata.category(character) != "Cf")


def _letters_alone(text: str) -> str:
    """Keep letters, digits and the commonest marks."""
    return re.sub(r"[^\w\s.,;:!?()'-]", " ", _normalised(text))


def _whole_characters(text: str) -> str:
    """Replace halves of surrogate pairs, which no tokenizer takes, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not _encodable(text) else text


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_special_tokens(text: str, tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> str:
    """Return what an environment says in a prompt, in which special tokens are read wherever they stand, without them.

    Each is broken by a space after its first character. Tags of the protocol stay: an environment may explain them.
    What is much longer than `n_tokens` is cut, and stays too long for a prompt of that length.
    """
    text = _whole_characters(text[: 8 * CHARACTERS_PER_TOKEN * n_tokens])
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted((token for token in special if len(token.strip()) > 1), key=len, reverse=True):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


@dataclass(frozen=True)
class ObservationEncoder:
    """Render and tokenise what the policy reads after a turn.

    Retrieved text is data: protocol tags in it are neutralised, special tokens are tokenised as the plain characters
    they are spelled with, and each title and text is cut to `passage_tokens` tokens, before it is tokenised whole.
    The tokens are then looked at as the policy sees them: where a normaliser has made a tag or a special token of
    something else (`＜/result＞` under NFKC), the text is spelled in a way that it cannot.

    Args:
        tokenizer: the policy's tokenizer.
        passage_tokens: most tokens of one passage's text, and of its title.
        text_tokens: most tokens of an observation that is text; None for `3·passage_tokens`, as three passages have.
        tools: names of the tags that call tools.
        result_format: how a passage is shown (`protocol.check_wording`).
    """

    tokenizer: PreTrainedTokenizerBase
    passage_tokens: int = 160
    text_tokens: int | None = None
    tools: tuple[str, ...] = ("search",)
    result_format: str = RESULT_FORMAT

    def __call__(self, shown: str | Sequence[Passage]) -> list[int]:
        """Return the token ids of the whole `<result>` block."""
        # Rollouts of a prompt read the same passages.
        return list(self._encoded(shown if isinstance(shown, str) else tuple(shown)))

    @cached_property
    def _encoded(self) -> Callable[[str | tuple[Passage, ...]], list[int]]:
        return lru_cache(maxsize=_KEPT)(self._encode)

    def _encode(self, shown: str | tuple[Passage, ...]) -> list[int]:
        ids: list[int] = []
        for spell in (_as_written, _normalised, _letters_alone):
            ids = self._ids(self._block(shown, spell))
            if not self._breaks_out(ids):
                break
        return ids

    def plain(self, text: str) -> str:
        """Return `text`, cut and harmless, for a chat template, whose special tokens are read wherever they stand."""
        for spell in (_as_written, _normalised, _letters_alone):
            (safe,) = self._safe([text], self.text_budget, spell, self._all_added)
            ids = self.tokenizer(safe, add_special_tokens=False)["input_ids"]
            if not self._n_added(ids) and not self._tags(ids):
                break
        return safe

    @property
    def text_budget(self) -> int:
        """Return the most tokens of an observation that is text."""
        return 3 * self.passage_tokens if self.text_tokens is None else self.text_tokens

    def _block(self, shown: str | Sequence[Passage], spell: Spelling) -> str:
        if isinstance(shown, str):
            (text,) = self._safe([shown], self.text_budget, spell, self._foreign_tokens)
            return "\n".join(["<result>", text, "</result>", ""])
        foreign = self._foreign_tokens
        titles = self._safe([passage.title for passage in shown], self.passage_tokens, spell, foreign)
        texts = self._safe([passage.text for passage in shown], self.passage_tokens, spell, foreign)
        parts = zip(shown, titles, texts, strict=True)
        safe = [replace(passage, title=title, text=text) for passage, title, text in parts]
        return render_result(safe, self.result_format)

    def _safe(self, texts: list[str], n_tokens: int, spell: Spelling, foreign: list[str]) -> list[str]:
        """Neutralise and cut `texts`, of which only as much is read as the budget can need."""

        def bounded(text: str, n_characters: int) -> str:
            return neutralise(spell(_whole_characters(text[:n_characters])), foreign, self.tools)

        if not texts:
            return []
        first = CHARACTERS_PER_TOKEN * n_tokens
        read = [bounded(text, first) for text in texts]
        spans = self._spans(read)
        for i, text in enumerate(texts):
            if len(text) > first and len(spans[i]) <= n_tokens:
                read[i] = bounded(text, 8 * first)
                (spans[i],) = self._spans([read[i]])
        return [
            text if len(found) <= n_tokens else text[: found[n_tokens - 1][1]]
            for text, found in zip(read, spans, strict=True)
        ]

    def _spans(self, texts: list[str]) -> list[list[tuple[int, int]]]:
        encoded = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        return list(encoded["offset_mapping"])

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _breaks_out(self, ids: list[int]) -> bool:
        """Tell whether the policy reads other tags or added tokens than those of an empty block."""
        n_added, tags = self._frame
        return self._n_added(ids) > n_added or self._tags(ids) != tags

    @cached_property
    def _frame(self) -> tuple[int, list[str]]:
        ids = self._ids("<result>\n</result>\n")
        return self._n_added(ids), self._tags(ids)

    def _tags(self, ids: list[int]) -> list[str]:
        found = tag_pattern(self.tools).findall(self.tokenizer.decode(ids))
        return [re.sub(r"\s", "", tag).lower() for tag in found]

    def _n_added(self, ids: list[int]) -> int:
        return sum(token in self._added for token in ids)

    @cached_property
    def _added(self) -> frozenset[int]:
        """Added tokens that are more than white space or one character."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset(token for token, text in added if len(str(text).replace("▁", " ").strip()) > 1)

    @cached_property
    def _foreign_tokens(self) -> list[str]:
        """The added tokens that are not special, longest first: tokenizers match them even in plain text."""
        special = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return [text for text in self._all_added if text not in special]

    @cached_property
    def _all_added(self) -> list[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return sorted({str(token) for token in added if str(token).strip()}, key=len, reverse=True)
