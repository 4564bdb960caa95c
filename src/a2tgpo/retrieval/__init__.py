"""Corpora of passages and the retrievers over them."""

from a2tgpo.retrieval.base import Hit, Retriever
from a2tgpo.retrieval.bm25 import BM25Retriever
from a2tgpo.retrieval.corpus import Passage, corpus_fingerprint, read_corpus

__all__ = ["BM25Retriever", "Hit", "Passage", "Retriever", "corpus_fingerprint", "read_corpus"]
