"""Send one request to a retrieval server, once, and say of a failure what may be done about it."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError

from a2tgpo.errors import RetrieverError
from a2tgpo.files import parse_json
from a2tgpo.retrieval.retriever import Hit
from a2tgpo.retrieval.wire import FINGERPRINT_HEADER, read_result

_CONNECTIONS = 32  # kept open for reuse; more threads than this still work
_HEALTH_TIMEOUT_S = 5.0
_LONGEST_PAUSE_S = 10.0
_JITTER_S = 0.25
_DETAIL_CHARS = 200
_PASSING = (408, 425, 429)  # and all from 500: not the request's fault
_BUSY = (429, 502, 503, 504)
_BLAMES_CONTENT = (400, 413, 422)  # and all from 500: one query may be to blame, and the others be answered without it


class RequestFailed(RetrieverError):
    """Say why a request failed.

    Attributes:
        passing: the same request may succeed a second later.
        divides: its queries may succeed one by one.
        slow: it timed out.
        busy: the server, or a gateway before it, has no time for anybody.
        pause_s: seconds for which the server asks to be left alone; None where it asks for nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        passing: bool,
        divides: bool = False,
        slow: bool = False,
        busy: bool = False,
        pause_s: float | None = None,
    ) -> None:
        super().__init__(message, passing=passing)
        self.divides, self.slow, self.busy, self.pause_s = divides, slow, busy, pause_s

    def pause(self, tries: int) -> None:
        """Wait before try number `tries` + 2: as the server asks, else not before the second, then ever longer."""
        seconds = self.pause_s
        if seconds is None:
            if tries == 0:
                return
            seconds = 0.25 * 2**tries
        # Clients that were refused together must not come back together.
        time.sleep(min(seconds, _LONGEST_PAUSE_S) + random.uniform(0, _JITTER_S))


class SearchServer:
    """Speak to the server at an address; every method sends one request, and may be called from any thread.

    Args:
        url: `http://host:port`, with or without `/retrieve` at its end.
        timeout_s: seconds to wait for a connection, and for the server's next bytes; above 0.

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise ValueError(f"url={url!r}: must be like http://127.0.0.1:8000")
        if not timeout_s > 0:
            raise ValueError(f"timeout_s={timeout_s}: must be above 0 seconds")
        self.url = url.rstrip("/").removesuffix("/retrieve")
        self.timeout_s = timeout_s
        # Whoever calls decides about trying again; a server that has moved is followed.
        once = Retry(total=None, connect=0, read=0, status=0, other=0, redirect=3)
        self._pool = PoolManager(maxsize=_CONNECTIONS, retries=once)

    def retrieve(self, queries: Sequence[str], k: int) -> tuple[list[list[Hit]], str | None]:
        """Return the hits of each query, and the fingerprint of the index that gave them where the server says it.

        Raises:
            RequestFailed: there was no answer, a refusal, or what is not a result.
        """
        body = json.dumps({"queries": list(queries), "topk": k, "return_scores": True}).encode()
        response = self._send("POST", "/retrieve", self.timeout_s, body)
        if response.status != 200:
            raise self._refusal("/retrieve", response)
        try:
            found = read_result(parse_json(response.data), len(queries), k)
        except (ValueError, RecursionError) as failure:
            raise RequestFailed(
                f"{self._shown}/retrieve answered what is not a result ({failure}); is it a retrieval server?",
                passing=True,
                divides=True,
            ) from failure
        return found, response.headers.get(FINGERPRINT_HEADER)

    def fingerprint(self) -> str | None:
        """Return the fingerprint of the server's index; None of a server that states none.

        Raises:
            RequestFailed: there was no answer.
        """
        health = self._send("GET", "/health", min(_HEALTH_TIMEOUT_S, self.timeout_s))
        try:
            facts = parse_json(health.data)
        except (ValueError, RecursionError):
            return None
        found = facts.get("fingerprint") if health.status == 200 and isinstance(facts, dict) else None
        return found if isinstance(found, str) else None

    @property
    def _shown(self) -> str:
        """Return the address without the user and password that it may hold."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _send(self, method: str, path: str, timeout_s: float, body: bytes | None = None) -> BaseHTTPResponse:
        headers = None if body is None else {"Content-Type": "application/json"}
        try:
            response = self._pool.request(method, self.url + path, timeout=timeout_s, body=body, headers=headers)
        except HTTPError as failure:
            reason = getattr(failure, "reason", None) or failure
            if isinstance(reason, ReadTimeoutError):
                raise RequestFailed(
                    f"{self._shown}{path} took longer than timeout_s={timeout_s:g} seconds; "
                    "raise timeout_s or lower batch_size",
                    passing=True,
                    divides=True,
                    slow=True,
                ) from failure
            raise RequestFailed(
                f"{self._shown}{path} cannot be reached ({reason}); is the server running?", passing=True
            ) from failure
        if response.status >= 500 or response.status in _PASSING:
            raise self._refusal(path, response)
        return response

    def _refusal(self, path: str, response: BaseHTTPResponse) -> RequestFailed:
        server_side = response.status >= 500
        return RequestFailed(
            f"{self._shown}{path} answered {response.status}: {_detail(response)}",
            passing=server_side or response.status in _PASSING,
            divides=server_side or response.status in _BLAMES_CONTENT,
            busy=response.status in _BUSY,
            pause_s=_asked_pause_s(response),
        )


def _asked_pause_s(response: BaseHTTPResponse) -> float | None:
    try:
        return Retry().get_retry_after(response)
    except InvalidHeader:
        return None


def _detail(response: BaseHTTPResponse) -> str:
    try:
        return str(parse_json(response.data)["detail"])[:_DETAIL_CHARS]
    except (ValueError, RecursionError, TypeError, KeyError):
        return response.data[:_DETAIL_CHARS].decode(errors="replace") or "(no text)"
