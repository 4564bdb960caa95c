"""Know a tool that raised from one that answered, in rollouts of TRL's own tool loop.

TRL shows the policy the text of whatever a tool raised and goes on. A call that the policy got wrong is its own doing;
a tool that raises on a good call failed the rollout, which is then excluded from the loss and from every statistic, as
one of our own loop is.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Sequence
from typing import Any

from a2tgpo.errors import ToolError
from a2tgpo.messages import warn_once

logger = logging.getLogger(__name__)

FAILED_BATCHES = 3
"""Batches in a row in which the tools failed every rollout, after which they count as gone."""


class ToolFailures:
    """Remember what tools raised while a batch was generated."""

    def __init__(self) -> None:
        self._raised: set[str] = set()
        self._failed_batches = 0

    def watch(self, tool: Callable[..., Any]) -> Callable[..., Any]:
        """Return `tool`, remembering what it raises; what does not fit its parameters is not its failure."""
        parameters = inspect.signature(tool)

        def note(error: Exception, args: Any, kwargs: Any) -> None:
            try:
                parameters.bind(*args, **kwargs)
            except TypeError:
                return
            self._raised.add(str(error))

        if inspect.iscoroutinefunction(tool):

            @functools.wraps(tool)
            async def watched_later(*args: Any, **kwargs: Any) -> Any:
                try:
                    return _shown(tool, await tool(*args, **kwargs))
                except Exception as error:
                    note(error, args, kwargs)
                    raise

            return watched_later

        @functools.wraps(tool)
        def watched(*args: Any, **kwargs: Any) -> Any:
            try:
                return _shown(tool, tool(*args, **kwargs))
            except Exception as error:
                note(error, args, kwargs)
                raise

        return watched

    def begin(self, tool_dicts: Sequence[dict[str, Any]]) -> None:
        """Forget the batch before, and watch the tools of each rollout of this one, where TRL's loop looks them up."""
        self._raised.clear()
        for tools in {id(tools): tools for tools in tool_dicts}.values():
            for name, tool in tools.items():
                tools[name] = self.watch(tool)

    def of(self, completions: Sequence[Any]) -> list[bool]:
        """Mark the rollouts of a batch in which a tool raised.

        Args:
            completions: TRL's, text or messages.
        """
        shown = {str({"error": message}) for message in self._raised}
        return [
            not isinstance(completion, str)
            and any(message.get("role") == "tool" and message.get("content") in shown for message in completion)
            for completion in completions
        ]

    def count(self, all_failed: bool) -> None:
        """Count a batch of which the tools failed every rollout, in all processes, or begin to count anew.

        Raises:
            ToolError: it was one of `FAILED_BATCHES` in a row.
        """
        self._failed_batches = self._failed_batches + 1 if all_failed else 0
        if self._failed_batches >= FAILED_BATCHES:
            raise ToolError(
                f"the tools raised in all rollouts of {self._failed_batches} batches in a row, the last time with "
                f"{min(self._raised, default='')!r}; nothing can be learned from them, so mend the tool and resume"
            )


def _shown(tool: Callable[..., Any], result: Any) -> Any:
    """Return a tool's result, with one warning where a chat template may show nothing of it."""
    if isinstance(result, list):
        warn_once(
            logger,
            f"Tool {tool.__name__!r} returned a list, which TRL gives to the chat template as parts of a message; some "
            "templates then show an empty result, and every gain is that of nothing. Return text.",
        )
    return result
