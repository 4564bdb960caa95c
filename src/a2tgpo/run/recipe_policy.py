"""Open models as a recipe wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from a2tgpo.errors import needs_extra
from a2tgpo.pretrained import open_model, open_tokenizer

if TYPE_CHECKING:
    from a2tgpo.run.recipe import RunConfig


def load_tokenizer(name: str, config: RunConfig) -> PreTrainedTokenizerBase:
    """Open the tokenizer of model `name`, where the recipe names it at the recipe's revision."""
    return open_tokenizer(
        name,
        revision=config.model.model_revision if name == config.model.model_name_or_path else None,
        trust_remote_code=config.training.trust_remote_code,
    )


def load_model(name: str, config: RunConfig, *, merges: bool = False) -> PreTrainedModel:
    """Open the causal LM `name` in the recipe's precision and attention implementation.

    The recipe's own model is quantised where it says so, unless adapters are to be merged into it (`merges`).
    """
    options: dict[str, Any] = {"trust_remote_code": config.training.trust_remote_code}
    if name == config.model.model_name_or_path:
        options["revision"] = config.model.model_revision
    if config.model.attn_implementation is not None:
        options["attn_implementation"] = config.model.attn_implementation
    options["dtype"] = config.model.dtype or "float32"
    if config.quantizes and name == config.model.model_name_or_path and not merges:
        from trl import get_quantization_config

        with needs_extra("qlora", "load_in_4bit or load_in_8bit"):
            import bitsandbytes  # noqa: F401
        quantized = get_quantization_config(config.model)
        return open_model(name, quantization_config=quantized, device_map={"": config.training.device}, **options)
    return open_model(name, **options).to(config.training.device)
