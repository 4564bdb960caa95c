"""Find modules under the names they had in 0.1, so that scripts written for it go on working.

The finder stands first: a moved package knows the folder of its modules, and Python would load them a second time under
their old names. It goes with 0.3.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "a2tgpo.config": "a2tgpo.run.recipe",
    "a2tgpo.evaluate.exact_match": "a2tgpo.text_match",
    "a2tgpo.integrations.rewards": "a2tgpo.rewards",
    "a2tgpo.integrations.trl_config": "a2tgpo.integrations.trl.config",
    "a2tgpo.integrations.trl_rollout": "a2tgpo.integrations.trl.rollout_func",
    "a2tgpo.integrations.trl_trainer": "a2tgpo.integrations.trl.trainer",
    "a2tgpo.recipe_file": "a2tgpo.run.recipe_file",
    "a2tgpo.run.policy": "a2tgpo.pretrained",
    "a2tgpo.sampling": "a2tgpo.rollout.strategies",
    "a2tgpo.scoring": "a2tgpo.signals.answer_likelihood",
    "a2tgpo.tools": "a2tgpo.environments",
    "a2tgpo.warn_once": "a2tgpo.messages",
}
"""Old name -> new name; a package's modules move with it."""


class MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import the new module for an old name, with one DeprecationWarning a name."""

    def __init__(self) -> None:
        self._specs: dict[str, importlib.machinery.ModuleSpec | None] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(fullname, self) if _new_name(fullname) else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = _new_name(spec.name)
        assert new is not None, "only moved names are found"
        warnings.warn(f"{spec.name} is now {new}; the old name goes with 0.3", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        self._specs[new] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing, for the module has run under its new name, and give it back the spec that import replaced."""
        module.__spec__ = self._specs[module.__name__]


def _new_name(fullname: str) -> str | None:
    for old, new in MOVED.items():
        if fullname == old or fullname.startswith(f"{old}."):
            return new + fullname.removeprefix(old)
    return None
