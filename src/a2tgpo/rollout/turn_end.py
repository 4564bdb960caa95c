"""Where a turn ends."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase


class TurnEnd:
    """Tells, token by token, whether a turn has just ended.

    It has when its last token is an end-of-sequence token, or completes a stop string inside the turn: a stop string
    in the context, or one that began there, ends nothing. A last token may hold more text than the stop string's end.

    Args:
        tokenizer: decodes the turn.
        stop_strings: texts that close a turn; each ends in a printable ASCII character.
        eos_token_id: the token or tokens that end a sequence; None for none.

    Raises:
        ValueError: a stop string that is empty or ends in another character.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop_strings: Sequence[str],
        eos_token_id: int | Iterable[int] | None,
    ) -> None:
        for stop in stop_strings:
            if not (stop and stop[-1].isascii() and stop[-1].isprintable() and stop[-1] != " "):
                raise ValueError(f"stop string {stop!r}: must end in a visible ASCII character")
        self.tokenizer = tokenizer
        self.stop_strings = tuple(stop_strings)
        eos = () if eos_token_id is None else (eos_token_id,) if isinstance(eos_token_id, int) else eos_token_id
        self.eos_token_ids = frozenset(int(token) for token in eos)
        self._closers = _tokens_with(tokenizer, frozenset(stop[-1] for stop in stop_strings))

    def __call__(self, turn: Sequence[int]) -> bool:
        """Whether the last token of `turn` ends it, given that no earlier one did."""
        if turn[-1] in self.eos_token_ids:
            return True
        if turn[-1] not in self._closers:
            return False
        text = self.tokenizer.decode(turn)
        return any(stop in text for stop in self.stop_strings)


@functools.lru_cache(maxsize=8)
def _tokens_with(tokenizer: PreTrainedTokenizerBase, characters: frozenset[str]) -> frozenset[int]:
    """Tokens whose text has one of `characters`, and perhaps a few others.

    Vocabularies spell visible ASCII characters as themselves, or as a byte (`<0x3E>`), so that none is missed;
    decoding, which is slow, is left to the few tokens found here.
    """
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    hexadecimal = {f"<0x{ord(c):02X}>" for c in characters}
    return frozenset(
        token
        for token, piece in enumerate(pieces)
        if piece is not None and (piece in hexadecimal or not characters.isdisjoint(piece))
    )
