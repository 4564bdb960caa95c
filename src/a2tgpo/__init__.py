"""A²TGPO: per-turn credit for tool-using language-model agents (arXiv 2605.06200).

The trainer is imported on first use, so that `a2tgpo.core` stays importable with torch alone.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from a2tgpo.integrations.trl_config import A2TGPOConfig
    from a2tgpo.integrations.trl_trainer import A2TGPOTrainer

__all__ = ["A2TGPOConfig", "A2TGPOTrainer"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "A2TGPOConfig":
        from a2tgpo.integrations.trl_config import A2TGPOConfig

        return A2TGPOConfig
    if name == "A2TGPOTrainer":
        from a2tgpo.integrations.trl_trainer import A2TGPOTrainer

        return A2TGPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
