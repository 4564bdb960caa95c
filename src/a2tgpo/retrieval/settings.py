"""Describe what an index is built with."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from a2tgpo.retrieval.bm25 import check_title_weight

Backend = Literal["bm25", "dense", "hybrid"]
FaissType = Literal["flat", "hnsw", "ivfpq", "sq8"]
Dtype = Literal["float32", "bfloat16", "float16"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)
FAISS_TYPES: tuple[FaissType, ...] = get_args(FaissType)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


@dataclass(frozen=True, slots=True)
class BM25Settings:
    """Say how words are counted.

    Attributes:
        title_weight: how many times the title counts; 1 or more.
    """

    title_weight: int = 1

    def __post_init__(self) -> None:
        check_title_weight(self.title_weight)


@dataclass(frozen=True, slots=True)
class DenseSettings:
    """Say how texts become vectors, and how vectors are kept.

    Attributes:
        encoder: Hub name or folder of a sentence-transformers model.
        query_prefix: what stands before every query; None: as the encoder was trained (see `Encoder`).
        passage_prefix: the same for passages.
        max_length: tokens of a passage or query that are read, 1 or more; an encoder with a lower limit keeps its own.
        dtype: in which the encoder computes; vectors are kept in float32, or as `faiss_type` says.
        faiss_type: flat (exact), hnsw (graph over exact vectors), sq8 (every vector compared, in 8-bit numbers), ivfpq
            (cells of product-quantised vectors).
    """

    encoder: str = "intfloat/e5-base-v2"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_length: int = 256
    dtype: Dtype = "float32"
    faiss_type: FaissType = "flat"

    def __post_init__(self) -> None:
        if not self.encoder:
            raise ValueError("encoder is empty; give the Hub name or folder of a sentence-transformers model")
        if self.max_length < 1:
            raise ValueError(f"max_length={self.max_length}: must be at least 1 token")
        for name, allowed in (("dtype", DTYPES), ("faiss_type", FAISS_TYPES)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(allowed)}")


@dataclass(frozen=True, slots=True)
class IndexSettings:
    """Name a back end and its parts: `bm25` for bm25 and hybrid, `dense` for dense and hybrid, else None."""

    backend: Backend
    bm25: BM25Settings | None
    dense: DenseSettings | None

    @classmethod
    def of(
        cls, backend: Backend, bm25: BM25Settings | None = None, dense: DenseSettings | None = None
    ) -> IndexSettings:
        """Make the settings of a back end; its parts are the defaults unless given.

        Raises:
            ValueError: no such back end, or a part that it does not have.
        """
        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r}: must be one of {', '.join(BACKENDS)}")
        for part, given, other in (("bm25", bm25, "dense"), ("dense", dense, "bm25")):
            if backend == other and given is not None:
                raise ValueError(
                    f"backend={backend!r} has no {part} part; use hybrid or leave the {part} settings away"
                )
        return cls(
            backend,
            None if backend == "dense" else bm25 or BM25Settings(),
            None if backend == "bm25" else dense or DenseSettings(),
        )

    def differences(self, built: IndexSettings) -> list[str]:
        """Say in words what is asked for here and was built otherwise. What is None here was left to the encoder."""
        if self.backend != built.backend:
            return [f"backend {built.backend}, not {self.backend}"]
        return [
            f"{field.name} {getattr(theirs, field.name)!r}, not {value!r}"
            for ours, theirs in ((self.bm25, built.bm25), (self.dense, built.dense))
            if ours is not None
            for field in fields(ours)
            if (value := getattr(ours, field.name)) is not None and value != getattr(theirs, field.name)
        ]

    @classmethod
    def parse(cls, data: dict[str, Any]) -> IndexSettings:
        """Read the dictionary that `dataclasses.asdict` gives.

        Raises:
            KeyError, TypeError, ValueError: it is not one.
        """
        bm25, dense = data["bm25"], data["dense"]
        return cls.of(data["backend"], bm25 and BM25Settings(**bm25), dense and DenseSettings(**dense))
