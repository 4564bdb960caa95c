"""Build the generated world's tokenizer: one token per syllable, whole words for its phrases, ASCII for the rest."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from a2tgpo.data.names import ONSETS, ORGANISATION_KINDS, SYLLABLES, VOWELS
from a2tgpo.data.world import RELATIONS
from a2tgpo.rollout.protocol import TAGS

PAD, EOS, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
ROLES = ("system", "user", "assistant")
ROLE_TOKENS = tuple(f"<|{role}|>" for role in ROLES)
PROTOCOL_TOKENS = (*(f"<{slash}{tag}>" for tag in TAGS for slash in ("", "/")), "\\boxed{")
PHRASES = ("who is the", "what is the", "of", "I need", "I now know the answer", "no results")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

# A word of this shape would be the longest match at the start of some name and swallow one of its syllables.
_ONSET = "|".join(sorted(ONSETS, key=len, reverse=True))
_READS_AS_NAME = re.compile(f"(?:(?:{_ONSET})[{VOWELS}])+(?:{_ONSET})?")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a lower-casing WordPiece of about 450 tokens that gives offsets and never an unknown token for ASCII text.

    Names are spelled the same wherever they stand (question, title, query, box), which makes copying one skill.
    White space is not kept: `decode(encode(text))` has the words of `text`, spaced anew.
    """
    relations = {relation for facts in RELATIONS.values() for relation in facts}
    words = sorted({*" ".join(PHRASES).lower().split(), *relations, *(kind.lower() for kind in ORGANISATION_KINDS)})
    clashes = [word for word in words if word not in SYLLABLES and _READS_AS_NAME.fullmatch(word)]
    assert not clashes, f"words that begin like names: {clashes}"
    letters = string.ascii_lowercase + string.digits
    pieces = [
        *(PAD, EOS, UNKNOWN, *ROLE_TOKENS, *PROTOCOL_TOKENS),
        *SYLLABLES,
        *(f"##{syllable}" for syllable in SYLLABLES),
        *words,
        *letters,
        *(f"##{letter}" for letter in letters),
        *string.punctuation,
    ]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(WordPiece(vocabulary, unk_token=UNKNOWN, max_input_chars_per_word=100_000))
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return wrap_tokenizer(backend, PROTOCOL_TOKENS)


def wrap_tokenizer(backend: Tokenizer, whole: Iterable[str]) -> PreTrainedTokenizerFast:
    """Give a tokenizer this module's special tokens and chat template; each text of `whole` becomes one token."""
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in (PAD, EOS, UNKNOWN, *ROLE_TOKENS)])
    backend.add_tokens([AddedToken(token, normalized=False) for token in whole])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
