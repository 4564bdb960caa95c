"""Register with verl what `trainer.v1.trainer_mode=a2tgpo` names; found through the entry-point group `verl.plugins`.

verl loads this in every process that imports it and keeps what goes wrong to itself, at the level DEBUG: a run would
end in "Unknown trainer 'a2tgpo'". So the reason is said here.
"""

from __future__ import annotations

import sys


def register() -> None:
    """Import the modules that register themselves with verl.

    Raises:
        ImportError, AttributeError: a package that the trainer needs is missing, or a part of verl that it builds on.
    """
    try:
        # Modules and no names: this may run while one of them is itself being imported, and has imported verl.
        import a2tgpo.integrations.verl.credit_trainer
        import a2tgpo.integrations.verl.search_loop  # noqa: F401
    except Exception as error:
        remedy = (
            f"it needs {error.name}, which is not installed: pip install 'a2tgpo[verl]'"
            if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("a2tgpo")
            else f"{type(error).__name__}: {error}; this plug-in was made for verl 0.9.1"
        )
        print(f"a2tgpo: trainer.v1.trainer_mode=a2tgpo cannot be used: {remedy}", file=sys.stderr, flush=True)
        raise


register()
