"""Load a user's class or function by its dotted path."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any


def load_object(path: str) -> Any:
    """Return what `path`, written `package.module:Name`, names; modules beside the working directory are found too.

    Raises:
        ValueError: the path has another form, the module is not found or fails on import, or lacks the name; the
            message says what was looked for, and where.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"{path!r} names no object; write it as package.module:Name")
    module = _module(path, module_name)
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = sorted(n for n in vars(module) if not n.startswith("_"))[:12]
            where = getattr(module, "__file__", None) or "built in"
            raise ValueError(f"{path!r}: module {module_name} ({where}) has no {name}; it has {', '.join(names)}")
        found = getattr(found, part)
    return found


def load_module(name: str) -> Any:
    """Import the module `name`, from beside the working directory too, for what it registers.

    Raises:
        ValueError: see `load_object`.
    """
    return _module(name, name)


def _module(path: str, name: str) -> Any:
    if "/" in name or Path(name).is_file():
        meant = name.removesuffix(".py").strip("./").replace("/", ".")
        raise ValueError(f"{path!r}: a module goes by its name and not by its file; write {meant}")
    here = str(Path.cwd())
    added = here not in sys.path and "" not in sys.path
    if added:
        sys.path.append(here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as failure:
        if failure.name is not None and (name == failure.name or name.startswith(f"{failure.name}.")):
            raise ValueError(
                f"{path!r}: no module {name}; looked in {here} and the installed packages. Run the command from the "
                "folder that holds it, or install its package"
            ) from failure
        raise ValueError(f"{path!r}: importing {name} needs a module that is missing: {failure.name}") from failure
    except Exception as failure:
        raise ValueError(f"{path!r}: importing {name} failed with {type(failure).__name__}: {failure}") from failure
    finally:
        if added:
            sys.path.remove(here)
