"""Turn passages into observation tokens that cannot break out of their block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from a2tgpo.retrieval.corpus import Passage
from a2tgpo.rollout.protocol import neutralise, render_result


@dataclass(frozen=True)
class ObservationEncoder:
    """Render and tokenise search results.

    Retrieved text is data: protocol tags in it are neutralised, special tokens are tokenised as the plain characters
    they are spelled with, and each passage is cut to `passage_tokens` tokens.

    Args:
        tokenizer: the policy's tokenizer.
        passage_tokens: most tokens of one passage's text.
    """

    tokenizer: PreTrainedTokenizerBase
    passage_tokens: int = 160

    def __call__(self, passages: Sequence[Passage]) -> list[int]:
        """Return the token ids of the whole `<result>` block."""
        foreign = self._foreign_tokens()
        texts = self._cut([neutralise(passage.text, foreign) for passage in passages])
        shown = [
            replace(passage, title=neutralise(passage.title, foreign), text=text)
            for passage, text in zip(passages, texts, strict=True)
        ]
        return self.tokenizer(render_result(shown), add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def _cut(self, texts: list[str]) -> list[str]:
        if not texts:
            return []
        encoded = self.tokenizer(
            texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        return [
            text if len(spans) <= self.passage_tokens else text[: spans[self.passage_tokens - 1][1]]
            for text, spans in zip(texts, encoded["offset_mapping"], strict=True)
        ]

    def _foreign_tokens(self) -> list[str]:
        """List the added tokens that are not special, longest first: tokenizers match them even in plain text."""
        added = self.tokenizer.added_tokens_decoder.values()
        return sorted({str(t) for t in added if not t.special and str(t).strip()}, key=len, reverse=True)
