"""Needs a module that nobody has."""

from __future__ import annotations

import no_such_module_z  # type: ignore[import-not-found]  # noqa: F401
