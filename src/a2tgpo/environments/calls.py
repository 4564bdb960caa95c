"""Run many calls that may be slow, hang or fail: a bounded number at a time, each within a time limit."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from a2tgpo.errors import ToolError

AT_ONCE_S = 0.002
"""A call that answers within this is waited for even while other rollouts write: they lose less than its rollout
would, which would write nothing meanwhile."""

_IDLE_S = 1.0
"""For another call, before a thread ends."""

_LONGEST_WAIT_S = 60.0
"""For something to finish, before it is looked for anew."""


@dataclass(frozen=True)
class CallLimits:
    """Bound the calls of an environment.

    Attributes:
        timeout_s: seconds that one call may take; above 0.
        max_concurrent: calls that run at a time; at least 1.
        patience_s: seconds that rollouts which have their answer wait for others, when none can write; 0 lets none
            wait, and infinity all, always, which makes a seeded run repeatable however fast the environment is.
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


@dataclass(eq=False)
class _Call:
    key: int
    run: Callable[[], Any]
    started: float = 0.0
    returned: bool = False


class Calls:
    """Run calls by key, each in a daemon thread to itself; what they await runs in one event loop.

    Python cannot stop a thread: a call that hangs is given up, keeps what it holds until it returns by itself, and no
    longer counts as running.
    """

    def __init__(self, limits: CallLimits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._queue: deque[_Call] = deque()
        # In the order they were started, and so of their deadlines.
        self._running: dict[int, _Call] = {}
        self._done: SimpleQueue[tuple[_Call, Any, float]] = SimpleQueue()
        self._handed: SimpleQueue[_Call] = SimpleQueue()
        self._n_busy = self._n_idle = 0
        self._last_start = 0.0
        self._usual_s = 0.0

    def submit(self, key: int, call: Callable[[], Any]) -> None:
        """Start `call` as soon as there is room; one call a key at a time."""
        with self._lock:
            self._queue.append(_Call(key, call))
            self._start()

    def collect(self, *, idle: bool) -> dict[int, Any]:
        """Return what has finished, by key: the result, or the `ToolError` that it failed with.

        Args:
            idle: nobody can write: wait until something has finished, and then `patience_s` for the rest. Otherwise
                nothing is waited for but what answers at once; with infinite patience, in both cases, everything is.
        """
        patience, until = self.limits.patience_s, 0.0
        found = self._finished(0.0)
        while self._running:
            now = time.monotonic()
            if math.isinf(patience) or (idle and not found):
                pause = _LONGEST_WAIT_S
            elif idle:
                until = until or now + patience
                pause = until - now
            else:
                pause = self._last_start + AT_ONCE_S - now if self._usual_s <= AT_ONCE_S else 0.0
            if pause <= 0:
                break
            found |= self._finished(pause)
        return found

    def run(self, call: Callable[[], Any]) -> Any:
        """Return what one call comes to, within its time, while others go on.

        Raises:
            ToolError: it failed, or took too long.
        """
        ended: SimpleQueue[tuple[bool, Any]] = SimpleQueue()

        def work() -> None:
            try:
                ended.put((True, call()))
            except BaseException as failure:  # noqa: BLE001: given to the thread that waits, whatever it is
                ended.put((False, _failure(failure)))

        threading.Thread(target=work, name="a2tgpo-environment", daemon=True).start()
        try:
            well, found = ended.get(timeout=min(self.limits.timeout_s, threading.TIMEOUT_MAX))
        except Empty:
            raise ToolError(f"took longer than timeout_s={self.limits.timeout_s:g} seconds") from None
        if not well:
            raise found
        return found

    def resolve(self, value: Any) -> Any:
        """Return `value`, or what it comes to where it has to be awaited; called in a call's own thread."""
        return resolve(value, self.limits.timeout_s)

    def _finished(self, wait_s: float) -> dict[int, Any]:
        """Return what has finished or is given up now, or what does so first within `wait_s`."""
        with self._lock:
            first = next(iter(self._running.values()), None)
        if first is not None:
            wait_s = min(wait_s, first.started + self.limits.timeout_s - time.monotonic())
        found: dict[int, Any] = {}
        try:
            self._take(self._done.get(timeout=wait_s) if wait_s > 0 else self._done.get_nowait(), found)
            while True:
                self._take(self._done.get_nowait(), found)
        except Empty:
            pass
        with self._lock:
            expired = time.monotonic() - self.limits.timeout_s
            for key, call in list(self._running.items()):
                if call.started > expired:
                    break
                del self._running[key]
                if not call.returned:
                    self._n_busy -= 1
                found[key] = ToolError(f"took longer than timeout_s={self.limits.timeout_s:g} seconds")
            self._start()
        return found

    def _take(self, done: tuple[_Call, Any, float], found: dict[int, Any]) -> None:
        call, outcome, seconds = done
        with self._lock:
            if self._running.get(call.key) is not call:
                return  # given up
            del self._running[call.key]
        self._usual_s += 0.1 * (seconds - self._usual_s)
        found[call.key] = outcome

    def _start(self) -> None:
        """Start calls while there is room; the caller holds the lock."""
        while self._queue and self._n_busy < self.limits.max_concurrent:
            call = self._queue.popleft()
            call.started = self._last_start = time.monotonic()
            self._running[call.key] = call
            self._n_busy += 1
            if self._n_idle:
                self._n_idle -= 1
                self._handed.put(call)
            else:
                threading.Thread(target=self._work, args=(call,), name="a2tgpo-environment", daemon=True).start()

    def _work(self, call: _Call) -> None:
        """Run `call`, and others that come while the thread is idle."""
        while True:
            try:
                outcome = call.run()
            except BaseException as failure:  # noqa: BLE001: given to the thread that collects, whatever it is
                outcome = _failure(failure)
            with self._lock:
                if self._running.get(call.key) is call:
                    call.returned = True
                    self._n_busy -= 1
                self._n_idle += 1
                self._start()
            self._done.put((call, outcome, time.monotonic() - call.started))
            try:
                call = self._handed.get(timeout=_IDLE_S)
            except Empty:
                with self._lock:
                    if self._n_idle:
                        self._n_idle -= 1
                        return
                call = self._handed.get()  # handed over in this moment


def resolve(value: Any, timeout_s: float) -> Any:
    """Return `value`, or what it comes to where it has to be awaited, in the one event loop of this process.

    Connections belong to the loop that opened them, and live from batch to batch.

    Raises:
        ToolError: it took longer than `timeout_s`.
    """
    if not inspect.isawaitable(value):
        return value
    future = asyncio.run_coroutine_threadsafe(_awaited(value), _event_loop())
    try:
        return future.result(min(timeout_s, threading.TIMEOUT_MAX))
    except FutureTimeout as error:
        if future.done():
            raise  # the environment's own
        raise ToolError(f"took longer than timeout_s={timeout_s:g} seconds") from error
    finally:
        future.cancel()


@functools.cache
def _event_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="a2tgpo-event-loop", daemon=True).start()
    return loop


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _failure(failure: BaseException) -> ToolError:
    if isinstance(failure, ToolError):
        return failure
    try:
        said = str(failure)
    except Exception:  # an exception of a user's that cannot be written
        said = "it has no words"
    error = ToolError(f"{type(failure).__name__}: {said}")
    error.__cause__ = failure
    return error
