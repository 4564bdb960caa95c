"""Every message that docs/troubleshooting.md explains is one that the package can print."""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^> `(.+)`$", PAGE, flags=re.MULTILINE)


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield every text of a module, with `…` for what an f-string or %-format puts in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield re.sub(r"%[sdr]|%\.\d+f", "…", node.value)
        elif isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)


@pytest.fixture(scope="module")
def printed() -> list[str]:
    """All texts of the package, and those of the system that it passes on."""
    modules = sorted((ROOT / "src").rglob("*.py"))
    ours = [text for path in modules for text in texts(ast.parse(path.read_text(encoding="utf-8")))]
    return [*ours, os.strerror(errno.ENOSPC)]


def test_there_are_messages() -> None:
    """The page has dozens, each once."""
    assert len(MESSAGES) > 40 and len({*MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_the_package_prints_it(message: str, printed: list[str]) -> None:
    """It stands in the source as quoted, `…` being where the source puts a value in."""
    assert any(message in text for text in printed), message
