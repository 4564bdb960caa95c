"""The errors a user of a2tgpo can meet; each message names the offending value and the remedy."""


class A2TGPOError(Exception):
    """Base of every error this package raises on purpose."""


class DataError(A2TGPOError, ValueError):
    """A data set cannot be trained or evaluated on: a missing column, an empty answer, a duplicate id."""


class CorpusError(A2TGPOError, ValueError):
    """A retrieval corpus cannot be read: a line that is not JSON, a missing field, a duplicate id."""


class RecipeError(A2TGPOError, ValueError):
    """A recipe cannot be run: an unknown key, an existing run directory, options that contradict."""


class SignalError(A2TGPOError, ValueError):
    """A process signal gave no usable number for a turn: it raised, miscounted, or returned NaN or None."""


class ToolError(A2TGPOError, RuntimeError):
    """A tool raised, hung or answered garbage. It ends the rollouts that called it; it is never an empty result."""


class IndexMismatch(A2TGPOError, ValueError):
    """A search index cannot be used: it is unfinished, or disagrees with its manifest, corpus, encoder or versions."""


class RetrieverError(A2TGPOError, RuntimeError):
    """A retrieval server is gone, too slow, or answered something that is not a result."""


class PolicyServerError(A2TGPOError, RuntimeError):
    """A model server is gone, or refuses the key, the path or the model; what was answered before is kept."""
