"""Run many calls that may be slow, hang or fail: a bounded number at a time, each within a time limit."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any

from a2tgpo.errors import ToolError


@dataclass(frozen=True)
class CallLimits:
    """Bound the calls of an environment.

    Attributes:
        timeout_s: seconds that one call may take; above 0.
        max_concurrent: calls that run at a time; at least 1.
        patience_s: seconds that rollouts wait for each other before those that have their answer go on alone; 0 lets
            none wait, infinity all, which makes a seeded run repeatable however fast the environment is.
    """

    timeout_s: float = 30.0
    max_concurrent: int = 64
    patience_s: float = 0.05

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s={self.timeout_s}: must be above 0 seconds")
        if self.max_concurrent < 1:
            raise ValueError(f"max_concurrent={self.max_concurrent}: must be at least 1")
        if not self.patience_s >= 0:
            raise ValueError(f"patience_s={self.patience_s}: must be 0 seconds or more")


@dataclass
class _Running:
    future: Future[Any]
    deadline: float


class EventLoop:
    """Run coroutines in one event loop, of a thread that starts with the first of them.

    Environments that are coroutines keep connections, which belong to the loop that opened them: all batches of a pool
    share one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, value: Awaitable[Any]) -> Future[Any]:
        """Begin to await `value`."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="a2tgpo-event-loop", daemon=True).start()
            return asyncio.run_coroutine_threadsafe(_awaited(value), self._loop)

    def close(self) -> None:
        """Stop the loop; what it still awaits is given up."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)


class Calls:
    """Run calls by key, each in a daemon thread of its own; coroutines in an event loop, one of its own unless given.

    Python cannot stop a thread: a call that hangs is given up, keeps what it holds until it returns by itself, and no
    longer counts as running.
    """

    def __init__(self, limits: CallLimits, loop: EventLoop | None = None) -> None:
        self.limits = limits
        self._loop = loop or EventLoop()
        self._lock = threading.Lock()
        self._queue: deque[tuple[int, Callable[[], Any]]] = deque()
        self._running: dict[int, _Running] = {}

    def submit(self, key: int, call: Callable[[], Any]) -> None:
        """Start `call` as soon as there is room; one call a key at a time."""
        with self._lock:
            self._queue.append((key, call))
        self._start()

    def collect(self, *, block: bool) -> dict[int, Any]:
        """Return what has finished, by key: the result, or the `ToolError` that it failed with.

        Args:
            block: wait until something has finished, rather than `patience_s` for everything.
        """
        until = time.monotonic() + self.limits.patience_s
        found: dict[int, Any] = {}
        while True:
            found |= self._finished()
            with self._lock:
                running = list(self._running.values())
            if not running or (block and found):
                return found
            now = time.monotonic()
            if not block and now >= until:
                return found
            pause = min(call.deadline for call in running) - now
            pause = pause if block else min(pause, until - now)
            wait([call.future for call in running], timeout=max(pause, 0), return_when=FIRST_COMPLETED)

    def run(self, call: Callable[[], Any]) -> Any:
        """Return what one call comes to, within its time, while others go on.

        Raises:
            ToolError: it failed, or took too long.
        """
        future: Future[Any] = Future()
        threading.Thread(target=self._run, args=(call, future), name="a2tgpo-environment", daemon=True).start()
        wait([future], timeout=self.limits.timeout_s)
        found = _outcome(future) if future.done() else self._too_slow()
        if isinstance(found, ToolError):
            raise found
        return found

    def resolve(self, value: Any) -> Any:
        """Return `value`, or what it comes to where it has to be awaited; called in a call's own thread."""
        if not inspect.isawaitable(value):
            return value
        future = self._loop.submit(value)
        try:
            return future.result(self.limits.timeout_s)
        except FutureTimeout as error:
            raise self._too_slow() from error
        finally:
            future.cancel()

    def _too_slow(self) -> ToolError:
        return ToolError(f"took longer than timeout_s={self.limits.timeout_s:g} seconds")

    def _finished(self) -> dict[int, Any]:
        now = time.monotonic()
        found: dict[int, Any] = {}
        with self._lock:
            for key, call in list(self._running.items()):
                if call.future.done():
                    found[key] = _outcome(call.future)
                elif now >= call.deadline:
                    found[key] = self._too_slow()
                if key in found:
                    del self._running[key]
        if found:
            self._start()
        return found

    def _start(self) -> None:
        with self._lock:
            n_busy = sum(not call.future.done() for call in self._running.values())
            while self._queue and n_busy < self.limits.max_concurrent:
                key, call = self._queue.popleft()
                future: Future[Any] = Future()
                self._running[key] = _Running(future, time.monotonic() + self.limits.timeout_s)
                threading.Thread(target=self._run, args=(call, future), name="a2tgpo-environment", daemon=True).start()
                n_busy += 1

    def _run(self, call: Callable[[], Any], future: Future[Any]) -> None:
        try:
            future.set_result(call())
        except BaseException as failure:  # noqa: BLE001: given to the thread that collects, whatever it is
            future.set_exception(failure)
        self._start()


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _outcome(future: Future[Any]) -> Any:
    failure = future.exception()
    if failure is None:
        return future.result()
    if isinstance(failure, ToolError):
        return failure
    error = ToolError(f"{type(failure).__name__}: {failure}")
    error.__cause__ = failure
    return error
