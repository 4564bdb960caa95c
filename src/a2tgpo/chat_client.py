"""Send requests to an OpenAI-compatible server, and tell what their failures mean."""

from __future__ import annotations

import asyncio
from typing import Any

from a2tgpo.chat_reply import ModelFailure, Reply, TooSlow, read_reply
from a2tgpo.errors import PolicyServerError, needs_extra

_RETRIES = 2
"""Of one request, by the openai package: refused and broken connections, timeouts, 408, 409, 429 and 5xx."""

_PAUSES_S = 16.0
"""The longest that its pauses between retries add up to."""

OUTAGE = 5
"""Requests in a row that the server left unanswered, retries included, after which it counts as gone."""

_REFUSED_FOR_ALL = {401: "the API key", 403: "the API key", 404: "the URL and the model's name"}
_BUSY = (429, 502, 503, 504)


class ChatClient:
    """Send chat requests, several at a time.

    A failure is the question's own (`ModelFailure`) or the server's (`PolicyServerError`). It is the server's where the
    key, the path or the model is refused, where the first request of all reaches nobody, and where `OUTAGE` requests
    in a row reach nobody or time out. A server that is too busy after all retries (429, 502, 503, 504) is nobody.

    Args:
        base_url: such as `http://127.0.0.1:8000/v1`.
        api_key: what the server asks for; None where it asks for none.
        model: the server's name of the model.
        timeout_s: seconds a request may take before it is tried again.

    Raises:
        MissingExtra: the openai package is not installed.
    """

    def __init__(self, base_url: str, api_key: str | None, model: str, timeout_s: float) -> None:
        with needs_extra("eval", "a model server"):
            from openai import AsyncOpenAI
        self.base_url, self.model, self.timeout_s = base_url, model, timeout_s
        # The package's timeout is for the next bytes; a server that trickles them forever is timed out here.
        self._patience_s = (_RETRIES + 1) * timeout_s + _PAUSES_S
        # The package wants a key even where the server does not.
        self._client = AsyncOpenAI(
            base_url=base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=_RETRIES
        )
        self._has_answered, self._in_a_row = False, 0

    async def complete(self, messages: list[dict[str, Any]], **options: Any) -> Reply:
        """Return the model's next message, under the request's other `options`.

        Raises:
            ModelFailure: there is none for these messages.
            PolicyServerError: there is none for any.
        """
        from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

        request = self._client.chat.completions.with_raw_response
        try:
            async with asyncio.timeout(self._patience_s):
                response = await request.create(model=self.model, messages=messages, **options)  # type: ignore[arg-type]
        except (APITimeoutError, TimeoutError) as error:
            raise self._unanswered_in_time() from error
        except APIConnectionError as error:
            raise self._unanswered(f"{error.message} ({error.__cause__})") from error
        except APIStatusError as error:
            raise self._refused(error.status_code, error.message) from error
        except APIError as error:
            raise ModelFailure(f"{type(error).__name__}: {error.message}") from error
        self._answered()
        return read_reply(response.text, turn=sum(message["role"] == "assistant" for message in messages))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _refused(self, status: int, message: str) -> Exception:
        if status in _REFUSED_FOR_ALL:
            said = f"{self.base_url} answers {message}; check {_REFUSED_FOR_ALL[status]}"
            return PolicyServerError(said, refused=True)
        if status in _BUSY:
            return self._unanswered(message)
        self._answered()
        if "system" in message.lower() and "role" in message.lower():  # as Gemma's chat template says it
            message += "; if the model takes no system message, give --system_prompt ''"
        return ModelFailure(message)

    def _unanswered(self, reason: str) -> Exception:
        self._in_a_row += 1
        if self._in_a_row < OUTAGE and self._has_answered:
            return ModelFailure(reason)
        return PolicyServerError(f"{self.base_url} gives no answer: {reason}; is the server running?")

    def _unanswered_in_time(self) -> Exception:
        self._in_a_row += 1
        if self._in_a_row < OUTAGE:
            return TooSlow(f"timed out at timeout_s={self.timeout_s:g} seconds, {_RETRIES} retries included")
        return PolicyServerError(
            f"{self.base_url}: {OUTAGE} requests in a row timed out at timeout_s={self.timeout_s:g} seconds, retries "
            "included; raise timeout_s or lower concurrency"
        )

    def _answered(self) -> None:
        self._has_answered, self._in_a_row = True, 0
