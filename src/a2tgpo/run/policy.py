"""Loading the policy a recipe names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from a2tgpo.config import RunConfig

EMBEDDED = "a2tgpo:hops-tiny"
"""Name of the small pre-trained policy that ships with the package."""


def resolve(name: str) -> str:
    """Path of the embedded policy for `EMBEDDED`; any other name (a path or a Hub id) as it is."""
    return str(files("a2tgpo").joinpath("assets/hops-tiny")) if name == EMBEDDED else name


def load_tokenizer(name: str, config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of model `name`, padding on the left, with a padding token."""
    with _named(name):
        tokenizer = AutoTokenizer.from_pretrained(
            resolve(name),
            revision=config.model.model_revision if name == config.model.model_name_or_path else None,
            trust_remote_code=config.training.trust_remote_code,
            padding_side="left",
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, config: RunConfig) -> PreTrainedModel:
    """The causal LM `name` in the recipe's precision and attention implementation."""
    options: dict[str, Any] = {"trust_remote_code": config.training.trust_remote_code}
    if name == config.model.model_name_or_path:
        options["revision"] = config.model.model_revision
    if config.model.attn_implementation is not None:
        options["attn_implementation"] = config.model.attn_implementation
    with _named(name):
        model = AutoModelForCausalLM.from_pretrained(resolve(name), dtype=config.model.dtype or "float32", **options)
    return model.to(config.training.device)


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        first_line = str(error).strip().splitlines()[0]
        raise RecipeError(f"model {name!r} cannot be loaded: {first_line}") from error
