"""Hold the errors a user of a2tgpo can meet; each message names the offending value and the remedy."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from a2tgpo.redact import redact


class A2TGPOError(Exception):
    """Be the base of every error this package raises on purpose; no secret stands in its text.

    The text travels: into rollouts, answers and pages as well as onto the terminal.
    """

    def __init__(self, *arguments: object, **options: Any) -> None:
        super().__init__(*(redact(each) if isinstance(each, str) else each for each in arguments), **options)


class DataError(A2TGPOError, ValueError):
    """Say that a data set cannot be trained or evaluated on: a missing column, an empty answer, a duplicate id."""


class CorpusError(A2TGPOError, ValueError):
    """Say that a retrieval corpus cannot be read: a line that is not JSON, a missing field, a duplicate id."""


class RecipeError(A2TGPOError, ValueError):
    """Say that a recipe cannot be run: an unknown key, an existing run directory, options that contradict."""


class MissingExtra(A2TGPOError, ImportError):
    """Say that a package is missing, or is not one that works, which an optional part needs; and what brings it."""


class SignalError(A2TGPOError, ValueError):
    """Say that a process signal gave no usable number for a turn: it raised, miscounted, or returned NaN or None."""


class TrainingError(A2TGPOError, RuntimeError):
    """Say that training cannot go on: a loss, gradient or weight that is no finite number."""


class PassingFailure(A2TGPOError, RuntimeError):
    """Be the base of failures of other programs, and say whether the same request may succeed a second later.

    Attributes:
        passing: a server that is busy, restarting, too slow or cut off, not one that refuses this request.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class ToolError(PassingFailure):
    """Say that a tool raised, hung or answered garbage. It ends the rollouts that called it; it is no empty result."""


class JudgeError(PassingFailure):
    """Say that a judge's server refuses everything, or scored no rollout of several batches in a row."""


class IndexMismatch(A2TGPOError, ValueError):
    """Say that a search index is unfinished, or disagrees with its manifest, corpus, encoder or versions."""


class RetrieverError(PassingFailure):
    """Say that a retrieval server is gone, too slow, or answered something that is not a result."""


class PolicyServerError(A2TGPOError, RuntimeError):
    """Say that a model server is gone, or refuses the key, the path or the model; earlier answers are kept.

    Attributes:
        refused: it is there, and refuses.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Turn a module that a block cannot find into an error that says which extra to install.

    Args:
        extra: name of the extra in our package's metadata, such as "trl".
        what: what asks for it, as the sentence's subject: "engine='vllm'".

    Raises:
        MissingExtra: a module is not installed. A module of ours that is missing, or a name that an installed package
            lacks, is another fault and passes unchanged.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == "a2tgpo":
            raise
        missing = f"{what} needs {error.name}, which is not installed: pip install 'a2tgpo[{extra}]'"
        raise MissingExtra(missing, name=error.name) from error


_DISK = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EMFILE, errno.ESTALE),
}
"""Errors of a disk or its mode, by no fault of the program."""

_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")


def disk_failure(error: BaseException) -> str | None:
    """Say in one line what a disk refused, such as "No space left on device: runs/a/metrics.jsonl"; None otherwise.

    torch and safetensors say it in errors of their own, so the causes of `error` and their texts are searched.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return f"{os.strerror(seen.errno)}: {seen.filename or 'a file of the run'}"
        if (number := _ERROR_NUMBER.search(str(seen))) and int(number[1]) in _DISK:
            return f"{os.strerror(int(number[1]))}: {str(seen).splitlines()[0]}"
        if "PytorchStreamWriter failed" in str(seen) or "inline_container.cc" in str(seen):
            return f"a checkpoint could not be written, as on a full disk: {str(seen).splitlines()[0]}"
        seen = seen.__cause__ or seen.__context__
    return None


KEPT = "what the run has done is kept"
"""A note on an error that ended a run which can be continued."""
