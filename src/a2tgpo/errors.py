"""Hold the errors a user of a2tgpo can meet; each message names the offending value and the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class A2TGPOError(Exception):
    """Be the base of every error this package raises on purpose."""


class DataError(A2TGPOError, ValueError):
    """Say that a data set cannot be trained or evaluated on: a missing column, an empty answer, a duplicate id."""


class CorpusError(A2TGPOError, ValueError):
    """Say that a retrieval corpus cannot be read: a line that is not JSON, a missing field, a duplicate id."""


class RecipeError(A2TGPOError, ValueError):
    """Say that a recipe cannot be run: an unknown key, an existing run directory, options that contradict."""


class MissingExtra(A2TGPOError, ImportError):
    """Say that a package is missing which an optional part needs, and which extra of ours brings it."""


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


class IndexMismatch(A2TGPOError, ValueError):
    """Say that a search index is unfinished, or disagrees with its manifest, corpus, encoder or versions."""


class RetrieverError(PassingFailure):
    """Say that a retrieval server is gone, too slow, or answered something that is not a result."""


class PolicyServerError(A2TGPOError, RuntimeError):
    """Say that a model server is gone, or refuses the key, the path or the model; earlier answers are kept."""


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
