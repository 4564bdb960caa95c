"""Turn texts into unit vectors with a sentence-transformers encoder and the prefixes it was trained with."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from a2tgpo.errors import IndexMismatch, RecipeError, needs_extra
from a2tgpo.files import new_file
from a2tgpo.retrieval.corpus import Passage
from a2tgpo.retrieval.manifest import IndexFolder

if TYPE_CHECKING:
    from a2tgpo.retrieval.settings import DenseSettings

_E5 = re.compile(r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?")
_GPU_BATCH, _CPU_BATCH = 128, 8  # a small batch stays in a core's cache: a third faster than 64
_PROBE = "Who wrote the book that the film of 1939 is based on?"
# A cosine. With MiniLM bfloat16 leaves a probe at 0.9999 and a prefix changes it to 0.98 or less.
_SAME_PROBE = 0.995
_SAFE_MAJOR = 6  # sentence-transformers 5 imports modules of a local folder unasked


class Encoder:
    """Encode queries and passages with a sentence-transformers model.

    A passage is encoded as its title in double quotes, a line break, and its text (Search-R1's form; the text alone
    where there is no title), cut at `max_length` tokens.

    Args:
        settings: what to load. Prefixes that are None become those of E5 for an E5 model (by its name), else the
            prompts that the model brings, else nothing.

    Attributes:
        model: the sentence-transformers model.
        query_prefix: what is put before every query.
        passage_prefix: what is put before every passage.
        probe: the vectors of one fixed sentence as a query and as a passage; other weights or prefixes give others.

    Raises:
        MissingExtra: sentence-transformers is missing.
        RecipeError: it is one that imports the code of whoever wrote the model's files.
        IndexMismatch: the model cannot be loaded, or only with code of its own.
    """

    def __init__(self, settings: DenseSettings) -> None:
        with needs_extra("dense", "dense retrieval"):
            import torch
            from sentence_transformers import SentenceTransformer, __version__
        if int(__version__.partition(".")[0]) < _SAFE_MAJOR:
            raise RecipeError(
                f"sentence-transformers {__version__} imports whatever module a model's files name; "
                "pip install 'a2tgpo[dense]' brings one that does not"
            )
        try:
            # An index names its encoder, and an index may be somebody else's: none of its code is run.
            self.model = SentenceTransformer(settings.encoder, trust_remote_code=False)
        except (OSError, ValueError, ImportError, AttributeError) as failure:
            raise IndexMismatch(
                f"the encoder {settings.encoder!r} cannot be loaded ({failure}); give the folder or Hub name of a "
                "sentence-transformers model"
            ) from failure
        self.model.to(dtype=getattr(torch, settings.dtype))
        self._batch_size = _GPU_BATCH if self.model.device.type == "cuda" else _CPU_BATCH
        limit = self.model.get_max_seq_length()
        if limit is None or settings.max_length < limit < math.inf:  # infinite: a model of word vectors, never cut
            self.model.max_seq_length = settings.max_length
        self.query_prefix, self.passage_prefix = _prefixes(settings, self.model.prompts)
        self._one_at_a_time = threading.Lock()  # fast tokenizers fail when two threads set their truncation
        self.probe = np.concatenate([self.queries([_PROBE]), self.passages([Passage("", "", _PROBE)])])

    @property
    def dimension(self) -> int:
        return self.probe.shape[1]

    def queries(self, queries: Sequence[str]) -> np.ndarray:
        """Return unit vectors of queries, float32 [queries, dimension]."""
        return self._encode(self.model.encode_query, self.query_prefix, queries)

    def passages(self, passages: Sequence[Passage]) -> np.ndarray:
        """Return unit vectors of passages, float32 [passages, dimension]."""
        return self._encode(self.model.encode_document, self.passage_prefix, map(_contents, passages))

    def _encode(self, encode: Callable[..., Any], prefix: str, texts: Iterable[str]) -> np.ndarray:
        # Half of a surrogate pair, which JSON can spell, would stop the tokenizer.
        texts = [text.encode(errors="replace").decode() for text in texts]
        with self._one_at_a_time:
            vectors = encode(texts, prompt=prefix, batch_size=self._batch_size, show_progress_bar=False)
        vectors = np.asarray(vectors, np.float32)  # before the norm, which half precision would round
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def record_probe(encoder: Encoder, at: IndexFolder) -> None:
    """Keep what tells this encoder from another; a build that goes on must go on with the same.

    Raises:
        IndexMismatch: an earlier call kept another encoder's.
    """
    at.dense.mkdir(exist_ok=True)
    if at.probe.exists():
        check_probe(encoder, at)
        return
    with new_file(at.probe) as unfinished, unfinished.open("wb") as file:
        np.save(file, encoder.probe)


def check_probe(encoder: Encoder, at: IndexFolder) -> None:
    """Raise IndexMismatch unless the encoder still maps a fixed sentence to the vectors that the build saw."""
    try:
        expected = np.load(at.probe)
    except (OSError, ValueError, EOFError) as failure:
        raise IndexMismatch(
            f"{at.probe} is missing or damaged ({failure}); delete the folder and build the index again"
        ) from failure
    if expected.shape != encoder.probe.shape:
        raise IndexMismatch(
            f"{at.root} was built with an encoder of {expected.shape[1]} dimensions and this one has "
            f"{encoder.dimension}; use the same encoder or delete the folder and build the index again"
        )
    if (cosine := float(cosines(expected, encoder.probe).min())) < _SAME_PROBE:
        raise IndexMismatch(
            f"{at.root} was built with other weights or prefixes than the encoder has now: a fixed sentence differs, "
            f"cosine {cosine:.3f}; use the same encoder or delete the folder and build the index again"
        )


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines [n] of vectors [n, dimension], row by row."""
    return (a * b).sum(-1) / np.maximum(np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1), 1e-12)


def _prefixes(settings: DenseSettings, prompts: dict[str, str | None]) -> tuple[str, str]:
    query = prompts.get("query") or ""
    passage = next((prompt for name in ("document", "passage", "corpus") if (prompt := prompts.get(name))), "")
    # A Hub name, a folder of that name, or one in the Hub's cache, "models--intfloat--e5-base-v2/snapshots/…".
    if any(_E5.fullmatch(part) for part in re.split("/|--", settings.encoder.lower())):
        query, passage = "query: ", "passage: "
    return (
        query if settings.query_prefix is None else settings.query_prefix,
        passage if settings.passage_prefix is None else settings.passage_prefix,
    )


def _contents(passage: Passage) -> str:
    return f'"{passage.title}"\n{passage.text}' if passage.title else passage.text
