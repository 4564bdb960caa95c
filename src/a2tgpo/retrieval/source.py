"""A retriever from what a user names: a server's address or an index folder."""

from __future__ import annotations

from a2tgpo.errors import RecipeError
from a2tgpo.retrieval.base import Retriever


def open_retriever(
    source: str, timeout_s: float = 20.0, *, corpus: str | None = None, cache: str | None = None
) -> Retriever:
    """An HTTP client for an address that begins with http:// or https://, else the index in the folder `source`.

    A request to the server may take `timeout_s` seconds, and what it answered is kept in the folder `cache` (see
    `HTTPRetriever`). An index must have been built from `corpus`, where one is given.

    Raises:
        IndexMismatch: see `open_index`.
        RecipeError: a library is missing, or a cache is given for an index.
    """
    if source.startswith(("http://", "https://")):
        from a2tgpo.retrieval.client import HTTPRetriever

        return HTTPRetriever(source, timeout_s=timeout_s, cache_dir=cache)
    if cache is not None:
        raise RecipeError(f"search_cache={cache!r}: what an index on disk finds is not cached; leave it out")
    from a2tgpo.retrieval.index import open_index

    return open_index(source, corpus=corpus)
