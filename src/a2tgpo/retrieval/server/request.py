"""Read the body of `POST /retrieve`: the first thing that is wrong with it is said, and none of it is repeated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from a2tgpo.files import is_whole
from a2tgpo.retrieval.server.limits import ServerLimits


class RefusedRequest(Exception):
    """Say no to a request: a status, a name for programs, and a sentence for people."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.error, self.detail = status, error, detail


@dataclass(frozen=True, slots=True)
class RetrieveRequest:
    """Hold what a request asks for, within the server's limits."""

    queries: list[str]
    topk: int
    return_scores: bool

    @classmethod
    def parse(cls, body: bytes, limits: ServerLimits) -> RetrieveRequest:
        """Read `{"queries": [text, ...], "topk": 3, "return_scores": false}`; a topk of null or 0 is the server's own.

        Raises:
            RefusedRequest: it is something else, or asks for more than the limits allow.
        """
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError) as failure:
            raise _malformed(f"the body is not JSON in UTF-8 ({type(failure).__name__})") from None
        if not isinstance(fields, dict):
            raise _malformed('the body is no object; send {"queries": [...]}')
        topk, return_scores = fields.get("topk"), fields.get("return_scores", False)
        if isinstance(topk, bool) or not (topk is None or isinstance(topk, (int, float))) or (topk or 0) % 1:
            raise _malformed("topk is no whole number")
        if not isinstance(return_scores, bool):
            raise _malformed("return_scores is neither true nor false")
        return cls(*_within(_queries(fields.get("queries"), limits), int(topk or limits.topk), limits), return_scores)


def _queries(queries: Any, limits: ServerLimits) -> list[str]:
    if not isinstance(queries, list):
        raise _malformed("queries is no list of texts")
    if len(queries) > limits.max_queries:
        raise RefusedRequest(
            422, "TooManyQueries", f"{len(queries)} queries: at most {limits.max_queries} in a request; send several"
        )
    for number, query in enumerate(queries):
        if not isinstance(query, str):
            raise _malformed(f"query {number} is no text")
        if len(query) > limits.max_query_chars:
            raise RefusedRequest(
                413,
                "QueryTooLong",
                f"query {number} has {len(query)} characters: at most {limits.max_query_chars}",
            )
        if not is_whole(query):
            raise _malformed(f"query {number} holds half a surrogate pair")
    return queries


def _within(queries: list[str], topk: int, limits: ServerLimits) -> tuple[list[str], int]:
    if not 1 <= topk <= limits.max_topk:
        raise RefusedRequest(422, "TopkOutOfRange", f"topk={topk}: must be from 1 to {limits.max_topk}")
    if len(queries) * topk > limits.max_passages:
        raise RefusedRequest(
            422,
            "TooManyPassages",
            f"{len(queries)} queries, {topk} passages each: at most {limits.max_passages} in an answer; send several",
        )
    return queries, topk


def _malformed(detail: str) -> RefusedRequest:
    return RefusedRequest(422, "Malformed", detail)
