"""A retriever from what a user names: a server's address or an index folder."""

from __future__ import annotations

from a2tgpo.retrieval.base import Retriever


def open_retriever(source: str, timeout_s: float = 20.0) -> Retriever:
    """An HTTP client for an address that begins with http:// or https://, else the index in the folder `source`.

    A request to the server may take `timeout_s` seconds.

    Raises:
        IndexMismatch, RecipeError: see `open_index`.
    """
    if source.startswith(("http://", "https://")):
        from a2tgpo.retrieval.client import HTTPRetriever

        return HTTPRetriever(source, timeout_s=timeout_s)
    from a2tgpo.retrieval.index import open_index

    return open_index(source)
