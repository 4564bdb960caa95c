"""Loading a policy: by name, or as a recipe wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from a2tgpo.run.recipe import RunConfig

EMBEDDED = "a2tgpo:hops-tiny"
"""Name of the small pre-trained policy that ships with the package."""


def resolve(name: str) -> str:
    """Path of the embedded policy for `EMBEDDED`; any other name (a path or a Hub id) as it is."""
    return str(files("a2tgpo").joinpath("assets/hops-tiny")) if name == EMBEDDED else name


def load_tokenizer(name: str, config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of model `name`, where the recipe names it at the recipe's revision."""
    return open_tokenizer(
        name,
        revision=config.model.model_revision if name == config.model.model_name_or_path else None,
        trust_remote_code=config.training.trust_remote_code,
    )


def load_model(name: str, config: RunConfig) -> PreTrainedModel:
    """The causal LM `name` in the recipe's precision and attention implementation."""
    options: dict[str, Any] = {"trust_remote_code": config.training.trust_remote_code}
    if name == config.model.model_name_or_path:
        options["revision"] = config.model.model_revision
    if config.model.attn_implementation is not None:
        options["attn_implementation"] = config.model.attn_implementation
    return open_model(name, dtype=config.model.dtype or "float32", **options).to(config.training.device)


def open_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of model `name`, padding on the left, with a padding token.

    Raises:
        RecipeError: it cannot be loaded.
    """
    with _named(name):
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), padding_side="left", **options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def open_model(name: str, **options: Any) -> PreTrainedModel:
    """The causal LM `name`.

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
