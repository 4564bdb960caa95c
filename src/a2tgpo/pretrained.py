"""Open a policy and its tokenizer by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.errors import RecipeError

EMBEDDED = "a2tgpo:hops-tiny"
"""Name of the small pre-trained policy that ships with the package."""


def resolve(name: str) -> str:
    """Return the path of the embedded policy for `EMBEDDED`; any other name (a path or a Hub id) as it is."""
    return str(files("a2tgpo").joinpath("assets/hops-tiny")) if name == EMBEDDED else name


def open_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Open the tokenizer of model `name`, padding on the left, with a padding token.

    Raises:
        RecipeError: it cannot be loaded.
    """
    with _named(name):
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), padding_side="left", **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def open_model(name: str, **options: Any) -> PreTrainedModel:
    """Open the causal LM `name`.

    Raises:
        RecipeError: it cannot be loaded.
    """
    with _named(name):
        return AutoModelForCausalLM.from_pretrained(resolve(name), **options)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError for a folder without a known model
        first_line = str(error).strip().splitlines()[0]
        raise RecipeError(f"model {name!r} cannot be loaded: {first_line}") from error
