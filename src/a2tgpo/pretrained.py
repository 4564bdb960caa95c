"""Open a policy and its tokenizer by name, and refuse what could not be trained or asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.errors import RecipeError
from a2tgpo.untrained import UNTRAINED, untrained_policy

SHIPPED = "a2tgpo:"
"""Names of the small pre-trained policies that ship with the package begin so."""

EMBEDDED = f"{SHIPPED}hops-tiny"
"""The one that searches; others play games."""

EMBEDDED_REGIONS = f"{SHIPPED}hops-regions-tiny"
"""The same after worlds with regions."""


def resolve(name: str) -> str:
    """Return the path of a policy that ships with the package, or is made by it; any other name (a path or a Hub id) as
    it is.

    Raises:
        RecipeError: no such policy ships with it.
    """
    if not name.startswith(SHIPPED):
        return name
    if name == UNTRAINED:
        return untrained_policy()
    assets = files("a2tgpo").joinpath("assets")
    there = sorted(found.name for found in assets.iterdir() if found.is_dir())
    if (wanted := name.removeprefix(SHIPPED)) not in there:
        known = ", ".join([*(f"{SHIPPED}{found}" for found in there), UNTRAINED])
        raise RecipeError(f"model {name!r}: no such policy in the package; there are {known}")
    return str(assets.joinpath(wanted))


def open_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Open the tokenizer of model `name`, padding on the left, with a padding token.

    Raises:
        RecipeError: it cannot be loaded, or has no end-of-sequence token.
    """
    with _named(name):
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), padding_side="left", **options)
    if tokenizer.eos_token is None:
        raise RecipeError(
            f"model {name!r}: its tokenizer has no EOS token, so that no turn could end and no row be padded; set "
            "eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def open_model(name: str, **options: Any) -> PreTrainedModel:
    """Open the causal LM `name`.

    Raises:
        RecipeError: it cannot be loaded, or one of its weights is NaN or infinite.
    """
    with _named(name):
        model = AutoModelForCausalLM.from_pretrained(resolve(name), **options)
    if (weight := first_not_finite(model)) is not None:
        raise RecipeError(
            f"model {name!r}: weight {weight} holds NaN or infinite numbers; choose a checkpoint from before that"
        )
    return model


@torch.no_grad()
def first_not_finite(model: torch.nn.Module) -> str | None:
    """Return the name of the first weight that holds NaN or infinity, None where there is none."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.numel() and weight.device.type != "meta":
            low, high = weight.aminmax()  # either is NaN where the weight has one
            if not (low.isfinite() and high.isfinite()):
                return name
    return None


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the token ids of a conversation up to where the policy writes, through the tokenizer's chat template.

    Args:
        template_kwargs: variables of the template, such as `enable_thinking`; `tools`; a `chat_template` in its place.

    Raises:
        RecipeError: the tokenizer has no chat template, or the template refuses the conversation, a system message
            for example.
    """
    options: dict[str, Any] = dict(add_generation_prompt=True, tokenize=True, return_dict=False)
    options |= template_kwargs or {}
    if not tokenizer.chat_template and not options.get("chat_template"):
        raise RecipeError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template, as base models have none: take the "
            "instruct model, or put chat_template.jinja into the model's folder"
        )
    try:
        return tokenizer.apply_chat_template(messages, **options)
    except TemplateError as error:
        raise RecipeError(_refusal(tokenizer, messages, options, error)) from error


def _refusal(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    error: TemplateError,
) -> str:
    refused = f"the chat template of {tokenizer.name_or_path!r} refuses "
    if len(messages) > 1 and messages[0].get("role") == "system":
        try:
            tokenizer.apply_chat_template(messages[1:], **options)
        except TemplateError:
            pass
        else:
            return f"{refused}a system message ({error}): give --system_prompt '' and say it in the question"
    return f"{refused}{', '.join(str(message.get('role')) for message in messages)} messages: {error}"


def check_chat_template(
    tokenizer: PreTrainedTokenizerBase, system_prompt: str | None, template_kwargs: Mapping[str, Any] | None = None
) -> None:
    """Refuse a chat template that has no place for `system_prompt`: one that raises, or that leaves it out unsaid.

    Raises:
        RecipeError: see `encode_chat`; or a conversation with the system message reads like one without.
    """
    question = [{"role": "user", "content": "Who?"}]
    plain = encode_chat(tokenizer, question, template_kwargs)
    if system_prompt:
        system = {"role": "system", "content": system_prompt}
        if encode_chat(tokenizer, [system, *question], template_kwargs) == plain:
            raise RecipeError(
                f"the chat template of {tokenizer.name_or_path!r} leaves system messages out, so that the policy would "
                "never read system_prompt: give --system_prompt '' and say it in the question"
            )


@contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a ValueError for a folder without a known model
        first_line = str(error).strip().splitlines()[0]
        raise RecipeError(f"model {name!r} cannot be loaded: {first_line}") from error
