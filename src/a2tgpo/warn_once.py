"""Warnings that a batch after batch would repeat."""

from __future__ import annotations

import functools
import logging


@functools.cache
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log `message` the first time it comes up in this process."""
    logger.warning(message)
