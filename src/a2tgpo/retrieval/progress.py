"""Progress bars over passages."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_LOG_EVERY_S = 60.0


def passages_bar(what: str, passages: Any = None, *, total: int | None = None) -> tqdm:
    """A bar on standard error that counts passages; in a log file, where bars cannot be redrawn, a line a minute."""
    interval = 0.1 if sys.stderr.isatty() else _LOG_EVERY_S
    return tqdm(passages, desc=what, total=total, unit=" passages", mininterval=interval, maxinterval=interval)
