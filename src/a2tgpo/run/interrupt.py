"""Stop a training between two batches, so that the run that goes on from there is the one that was not stopped."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from a2tgpo import processes

_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interrupted(KeyboardInterrupt):
    """Say that the run was asked to stop, by `signum`, and that a checkpoint was kept."""

    def __init__(self, message: str, signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum


class InterruptGuard(TrainerCallback):
    """Save a checkpoint and stop at the end of the batch at the first Ctrl-C or SIGTERM; stop at once at the second.

    A batch may feed several updates, and what is left of it is in no checkpoint: a run resumed in its middle would
    make another batch. Of several processes all stop at the same update, whichever of them got the signal.

    Attributes:
        requested: the signal that this process got.
        agreed: the signal that any process had got when all last asked each other.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.agreed: int | None = None
        self._previous: dict[int, Any] = {}
        self._first = self._waited = 0

    def __enter__(self) -> InterruptGuard:
        self._previous = {signum: signal.signal(signum, self._request) for signum in _NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            raise Interrupted("nothing more was saved", signum)
        self.requested = signum
        if processes.is_main():
            name = _NAMES[signal.Signals(signum)]
            print(f"\n{name}: saving a checkpoint after this batch (again to stop at once)", flush=True)

    def agree(self) -> int | None:
        """Return the signal that any process has got, None where none has; a collective."""
        if self.agreed is None:
            self.agreed = max(processes.gather([self.requested or 0])) or None
        return self.agreed

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first = state.global_step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.agree() is None:
            return control
        per_batch = args.steps_per_generation * args.num_iterations
        made = (state.global_step - self._first) * args.gradient_accumulation_steps
        self._waited += 1
        if made % per_batch == 0 or self._waited >= per_batch:
            control.should_save = True
            control.should_training_stop = True
        return control


def updates_per_batch(args: Any) -> int:
    """Return after how many updates a run stands between two batches."""
    per_batch, per_update = args.steps_per_generation * args.num_iterations, args.gradient_accumulation_steps
    return next(n for n in range(1, per_batch + 1) if n * per_update % per_batch == 0)
