"""Start a run as a process of its own, which holds a lock on its log file for as long as it lives.

So when a comparison was killed and its runs were not, the next one sees those and starts none of them twice.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from a2tgpo.compare.matrix import Cell

_TAIL_LINES = 12
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}


@dataclass
class RunProcess:
    """Hold a run under way. `process` is None for one that an earlier comparison left behind."""

    cell: Cell
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, cell: Cell, command: Sequence[str]) -> RunProcess:
        """Begin `command` for the cell, or find that it is running."""
        cell.prepare()
        log = _locked(cell.log)
        if log is None:
            return cls(cell)
        with log:
            # Of its own group, so that Ctrl-C reaches it once: through the comparison.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | _ENVIRONMENT,
                process_group=0,
            )
            return cls(cell, process, log.tell())

    @property
    def ended(self) -> bool:
        if self.process is not None:
            return self.process.poll() is not None
        log = _locked(self.cell.log)
        if log is None:
            return False
        log.close()
        return True

    @property
    def seconds(self) -> float:
        """Return the seconds since it was started, or found."""
        return time.monotonic() - self.begun

    def ending(self) -> str:
        """Tell how it failed, with the last lines of what it printed."""
        assert self.process is not None
        status = self.process.returncode
        text = self.cell.log.read_bytes()[self.log_start :].decode("utf-8", errors="replace")
        how = f"exit status {status}" if status >= 0 else f"killed by signal {-status}"
        return "\n".join([f"{how}, {self.cell.log}:", *text.splitlines()[-_TAIL_LINES:]])


def _locked(log: Path) -> BinaryIO | None:
    """Open the log at its end, locked until its last copy is closed; None while another process has it."""
    file = log.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
