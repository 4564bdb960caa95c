"""Fails on import."""

from __future__ import annotations

nothing = 1 / 0
