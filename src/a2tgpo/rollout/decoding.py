"""Draw the next token as `transformers.generate` would, and tell where a turn ends."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.generation import GenerationMode
from transformers.generation import logits_process as processors

if TYPE_CHECKING:
    from jaxtyping import Float

_OF_ONE_ROW = (
    processors.TemperatureLogitsWarper,
    processors.TopKLogitsWarper,
    processors.TopPLogitsWarper,
    processors.MinPLogitsWarper,
    processors.TypicalLogitsWarper,
    processors.EpsilonLogitsWarper,
    processors.EtaLogitsWarper,
    processors.RepetitionPenaltyLogitsProcessor,
    processors.SuppressTokensLogitsProcessor,
)
"""Processors that look at one row's tokens and scores alone: not at its length, its neighbours or its padding."""

_OF_THE_PROMPT = {"encoder_repetition_penalty": 1.0, "encoder_no_repeat_ngram_size": 0, "token_healing": False}
"""Settings by which `generate` treats the tokens it starts from unlike its own, and the values that turn them off."""


class Sampler:
    """Choose greedily or by sampling under a generation config, completed from the model's own as `generate` does it.

    The processors are transformers' own, in `generate`'s order, on float32 logits.
    """

    def __init__(self, model: PreTrainedModel, generation_config: GenerationConfig) -> None:
        self.config, _ = model._prepare_generation_config(generation_config)
        # `generate` does so first: processors of end tokens read what it leaves in the config.
        model._prepare_special_tokens(self.config, kwargs_has_attention_mask=True, device=model.device)
        # The length only tells it that there is a prompt; what would use it otherwise is an `obstacle`.
        self._processors = model._get_logits_processor(self.config, input_ids_seq_length=1, device=str(model.device))

    @property
    def obstacle(self) -> str | None:
        """Say why rows at different depths cannot be drawn together; None where they can."""
        if self.config.num_beams != 1 or self.config.num_return_sequences != 1:
            return "the generation config asks for several beams or sequences per row"
        mode = self.config.get_generation_mode()
        if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
            return f"the generation config asks for {mode.value}"
        foreign = [type(p).__name__ for p in self._processors if not isinstance(p, _OF_ONE_ROW)]
        foreign += [name for name, off in _OF_THE_PROMPT.items() if getattr(self.config, name, None) not in (None, off)]
        return f"the generation config uses {', '.join(foreign)}" if foreign else None

    def __call__(self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]) -> list[int]:
        """Return the next token of each row, whose tokens so far are `contexts[r]`."""
        return self._draw(self._scores(logits, contexts))

    def with_entropies(
        self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]
    ) -> tuple[list[int], list[float]]:
        """Return the next token of each row, and the entropy in nats of the distribution that it was drawn from."""
        scores = self._scores(logits, contexts)
        return self._draw(scores), self._entropies(scores)

    def entropies(self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]) -> list[float]:
        """Return the entropy in nats of the distribution that each row's next token is drawn from; 0 for greedy."""
        return self._entropies(self._scores(logits, contexts))

    def _scores(self, logits: Float[Tensor, "R V"], contexts: Sequence[list[int]]) -> Float[Tensor, "R V"]:
        scores = logits.float()
        if self._processors:
            width = max(map(len, contexts))
            # Padded with a token the row has anyway, so that a repetition penalty meets no other.
            ids = [[context[0]] * (width - len(context)) + context for context in contexts]
            scores = self._processors(torch.tensor(ids).to(logits.device), scores)
        return scores

    def _draw(self, scores: Float[Tensor, "R V"]) -> list[int]:
        if not self.config.do_sample:
            return scores.argmax(-1).tolist()
        probabilities = scores.softmax(-1)
        if scores.device.type != "cpu":
            return torch.multinomial(probabilities, num_samples=1).squeeze(1).tolist()
        # One random number for each row and not for each token. It lies in (0, 1], so that no token of probability 0
        # is drawn.
        cumulative = probabilities.cumsum(-1)
        height = (1 - torch.rand(len(scores), 1)) * cumulative[:, -1:]
        return torch.searchsorted(cumulative, height).squeeze(1).tolist()

    def _entropies(self, scores: Float[Tensor, "R V"]) -> list[float]:
        if not self.config.do_sample:
            return [0.0] * len(scores)
        return torch.special.entr(scores.softmax(-1)).sum(-1).tolist()


class TurnEnd:
    """Tell, token by token, whether a turn has just ended.

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
        """Tell whether the last token of `turn` ends it, given that no earlier one did."""
        if turn[-1] in self.eos_token_ids:
            return True
        if turn[-1] not in self._closers:
            return False
        text = self.tokenizer.decode(turn)
        return any(stop in text for stop in self.stop_strings)


@functools.lru_cache(maxsize=8)
def _tokens_with(tokenizer: PreTrainedTokenizerBase, characters: frozenset[str]) -> frozenset[int]:
    """Return the tokens whose text has one of `characters`, and perhaps a few others.

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
