"""Silence what a user can do nothing about."""

from __future__ import annotations

import warnings

from huggingface_hub.utils import enable_progress_bars
from transformers.utils import logging


def quieten() -> None:
    """Hide deprecations between TRL and transformers, and the bars of file loading."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.|trl\.")
    logging.disable_progress_bar()
    enable_progress_bars()  # downloads, which the line above hides too
