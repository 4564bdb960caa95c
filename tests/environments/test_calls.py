"""Many calls at a time: each comes back once, in its own words, and no more run than may."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from a2tgpo.environments.calls import CallLimits, Calls
from a2tgpo.errors import ToolError


def all_of(calls: Calls, n: int) -> dict[int, Any]:
    """The results of `n` calls, whenever they come."""
    found: dict[int, Any] = {}
    while len(found) < n:
        found |= calls.collect(idle=True)
    return found


@pytest.mark.parametrize("patience_s", [0.0, 0.02, math.inf])
@pytest.mark.parametrize("most", [1, 3, 64])
def test_every_call_comes_back_once(patience_s: float, most: int) -> None:
    """Three waves of twenty calls of 0 to 10 ms, some of which raise, asked for while others run."""
    calls, lock = Calls(CallLimits(max_concurrent=most, patience_s=patience_s)), threading.Lock()
    running, peak = 0, 0

    def job(number: int) -> Callable[[], int]:
        def run() -> int:
            nonlocal running, peak
            with lock:
                running += 1
                peak = max(peak, running)
            time.sleep((number % 3) * 0.005)
            with lock:
                running -= 1
            if number % 7 == 0:
                raise KeyError(number)
            return number

        return run

    found: dict[int, Any] = {}
    for wave in range(3):
        for number in range(20 * wave, 20 * wave + 20):
            calls.submit(number, job(number))
        more = calls.collect(idle=False)
        assert not set(more) & set(found)
        found |= more
        if math.isinf(patience_s):
            assert len(found) == 20 * wave + 20
    found |= all_of(calls, 60 - len(found)) if len(found) < 60 else {}
    for number in range(60):
        assert found[number] == number if number % 7 else "KeyError" in str(found[number])
    assert 1 <= peak <= most


def test_a_call_that_hangs_is_given_up_and_makes_room() -> None:
    """Two that hang fill the room; after their time the others run, and what they return later is nobody's."""
    calls, released = Calls(CallLimits(timeout_s=0.2, max_concurrent=2)), threading.Event()
    for number in range(4):
        calls.submit(number, (lambda: released.wait(10)) if number < 2 else (lambda: "fine"))
    found = all_of(calls, 4)
    assert [type(found[number]) for number in range(4)] == [ToolError, ToolError, str, str]
    assert "longer than timeout_s=0.2" in str(found[0])
    released.set()
    calls.submit(0, lambda: "again")
    assert all_of(calls, 1) == {0: "again"}


def test_writing_rollouts_wait_for_what_answers_at_once_and_for_nothing_else() -> None:
    """While others write, what answers in a moment is waited for; once calls are known to be slow, nothing is."""
    calls = Calls(CallLimits())
    calls.submit(0, lambda: "now")
    assert calls.collect(idle=False) == {0: "now"}
    for number in range(3):
        calls.submit(number, lambda: time.sleep(0.1))
    all_of(calls, 3)
    calls.submit(4, lambda: time.sleep(0.1))
    started = time.monotonic()
    assert calls.collect(idle=False) == {} and time.monotonic() - started < 0.05
    assert all_of(calls, 1) == {4: None}


def test_who_cannot_write_waits_for_company() -> None:
    """The first answer comes after 20 ms; patience of 0.2 s brings the second, of 60 ms, with it, and not the third."""
    calls = Calls(CallLimits(patience_s=0.2))
    for number, seconds in enumerate((0.02, 0.06, 0.6)):
        calls.submit(number, lambda seconds=seconds: time.sleep(seconds))
    assert set(calls.collect(idle=True)) == {0, 1}
    assert set(calls.collect(idle=True)) == {2}
