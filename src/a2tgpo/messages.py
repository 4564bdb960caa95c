"""Say a thing once, and silence what a user can do nothing about."""

from __future__ import annotations

import functools
import logging
import warnings


@functools.cache
def warn_once(logger: logging.Logger, message: str) -> None:
    """Log `message` the first time it comes up in this process; batch after batch would repeat it."""
    logger.warning(message)


def silence_imports() -> None:
    """Hide what the libraries below say of each other; they say it while they are imported, so call this before."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch|transformers|trl|peft|accelerate)(\.|$)")


def quieten() -> None:
    """Hide deprecations of the libraries below, and the bars of file loading, not those of downloads."""
    silence_imports()
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    enable_progress_bars()
