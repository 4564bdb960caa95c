"""Per-turn credit for tool-using language-model agents by A²TGPO (arXiv 2605.06200).

The trainer is imported on first use, so that `a2tgpo.core` stays importable with torch alone.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from a2tgpo._moved import MovedFinder
from a2tgpo.errors import needs_extra

if TYPE_CHECKING:
    from a2tgpo.integrations.trl.config import A2TGPOConfig
    from a2tgpo.integrations.trl.rollout_func import TagRollout
    from a2tgpo.integrations.trl.trainer import A2TGPOTrainer

__all__ = ["A2TGPOConfig", "A2TGPOTrainer", "TagRollout"]
__version__ = "0.2.0"

_HOMES = {
    "A2TGPOConfig": "a2tgpo.integrations.trl.config",
    "A2TGPOTrainer": "a2tgpo.integrations.trl.trainer",
    "TagRollout": "a2tgpo.integrations.trl.rollout_func",
}

if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
    sys.meta_path.insert(0, MovedFinder())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs_extra("trl", f"a2tgpo.{name}"):
        return getattr(importlib.import_module(_HOMES[name]), name)
