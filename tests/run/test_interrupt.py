"""Ctrl-C is a request the first time and an order the second."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from a2tgpo.run.interrupt import InterruptGuard

ONE_UPDATE = SimpleNamespace(steps_per_generation=1, num_iterations=1, gradient_accumulation_steps=1)
"""A batch for each update."""


def interrupt() -> None:
    """What the terminal sends at Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def test_the_first_interrupt_saves_and_stops(capsys: pytest.CaptureFixture[str]) -> None:
    """It raises nothing; the step ends, a checkpoint is asked for, and so is the end; the user is told."""
    with InterruptGuard() as guard:
        control = guard.on_step_end(ONE_UPDATE, TrainerState(global_step=1), TrainerControl())
        assert not control.should_save and not control.should_training_stop
        interrupt()
        control = guard.on_step_end(ONE_UPDATE, TrainerState(global_step=2), TrainerControl())
        assert control.should_save and control.should_training_stop and guard.requested == signal.SIGINT
    assert "saving a checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize("first", [0, 6])
def test_a_batch_is_finished_first(first: int) -> None:
    """SIGTERM in a batch of four updates, of a run that began or went on there: the checkpoint is asked for after the
    fourth, when nothing of the batch is left."""
    args = SimpleNamespace(steps_per_generation=4, num_iterations=2, gradient_accumulation_steps=2)
    with InterruptGuard() as guard:
        guard.on_train_begin(args, TrainerState(global_step=first), TrainerControl())
        os.kill(os.getpid(), signal.SIGTERM)
        saves = []
        for step in range(first + 1, first + 5):
            control = guard.on_step_end(args, TrainerState(global_step=step), TrainerControl())
            saves.append(control.should_save and control.should_training_stop)
    assert saves == [False, False, False, True] and guard.requested == signal.SIGTERM


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
