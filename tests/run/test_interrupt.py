"""Ctrl-C is a request the first time and an order the second."""

from __future__ import annotations

import os
import signal

import pytest
from transformers import TrainerControl, TrainerState

from a2tgpo.run.interrupt import InterruptGuard


def interrupt() -> None:
    """What the terminal sends at Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_saves_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """It raises nothing; the step ends, a checkpoint is asked for, and so is the end; the user is told."""
    with InterruptGuard() as guard:
        control = guard.on_step_end(None, TrainerState(), TrainerControl())
        assert not control.should_save and not control.should_training_stop
        interrupt()
        control = guard.on_step_end(None, TrainerState(), TrainerControl())
        assert control.should_save and control.should_training_stop and guard.requested
    assert "saving a checkpoint" in capsys.readouterr().out


def test_the_second_interrupt_stops_at_once() -> None:
    """It raises where the program is."""
    with InterruptGuard() as guard:
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert guard.requested


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_the_handler_before_is_back(error: type[Exception] | None) -> None:
    """After the guard, also after an error in it, Ctrl-C is what it was."""
    before = signal.getsignal(signal.SIGINT)
    try:
        with InterruptGuard():
            assert signal.getsignal(signal.SIGINT) != before
            if error is not None:
                raise error
    except RuntimeError:
        pass
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        interrupt()
