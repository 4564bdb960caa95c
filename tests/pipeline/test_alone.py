"""The pipeline knows no engine, and the house has no circles: who imports whom, read from the code itself."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import a2tgpo

ROOT = Path(a2tgpo.__file__).parent
ENGINES = ("trl", "accelerate", "verl", "ray", "vllm")
BELOW = ("core", "signals", "rollout", "environments", "retrieval", "data", "evaluate", "pipeline", "methods")


def test_imports_where_no_engine_can_be_imported() -> None:
    """In a process in which trl, accelerate and verl cannot be imported, every module of the pipeline is."""
    script = f"""
        import importlib, pkgutil, sys
        from importlib.machinery import PathFinder

        found = PathFinder.find_spec

        def hidden(name, path=None, target=None):
            return None if name.split(".")[0] in {ENGINES!r} else found(name, path, target)

        PathFinder.find_spec = staticmethod(hidden)
        import a2tgpo.pipeline as pipeline
        for module in pkgutil.iter_modules(pipeline.__path__, "a2tgpo.pipeline."):
            importlib.import_module(module.name)
        assert not set(sys.modules) & set({ENGINES!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def modules() -> dict[str, Path]:
    """Every module of the package and its file."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = ["a2tgpo", *path.relative_to(ROOT).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """The names a file imports, wherever in it, under type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def edges() -> dict[str, set[str]]:
    """Who imports whom among the modules."""
    known = modules()
    return {
        module: {
            target
            for name in imported(path)
            if (target := name if name in known else name.rpartition(".")[0]) in known and target != module
        }
        for module, path in known.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of nodes that reach each other."""
    reach = {node: set(targets) for node, targets in graph.items()}
    for via in reach:
        for node in reach:
            if via in reach[node]:
                reach[node] |= reach[via]
    return sorted({tuple(sorted(n for n in reach[m] if m in reach.get(n, ()))) for m in reach if m in reach[m]})


def package_of(module: str) -> str:
    """The folder that a module lies in; a module of the root is its own."""
    parts, path = module.split(".")[1:], modules()[module]
    if path.name == "__init__.py":
        return ".".join(parts)
    return ".".join(parts[:-1]) or ".".join(parts)


@pytest.mark.parametrize("package", BELOW)
def test_nothing_below_the_integrations_imports_an_engine(package: str) -> None:
    """No file of what the engines build on imports one, not even for types."""
    files = [path for module, path in modules().items() if module.split(".")[1:2] == [package]]
    assert files
    engines = [(path.name, name) for path in files for name in imported(path) if name.split(".")[0] in ENGINES]
    assert not [found for found in engines if not found[1].startswith("vllm") or package not in ("evaluate",)]


def test_no_file_imports_itself_through_others() -> None:
    """The imports between files have no circle."""
    assert not circles(edges())


def test_no_package_imports_itself_through_others() -> None:
    """Neither have those between packages."""
    graph: dict[str, set[str]] = {}
    for module, targets in edges().items():
        package = package_of(module)
        inside = {package_of(target) for target in targets} - {package}
        # A package and the packages in it are one house: a reader opens them together.
        graph.setdefault(package, set()).update(p for p in inside if not _nested(p, package))
    assert not circles(graph)


def _nested(one: str, other: str) -> bool:
    return not one or not other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


def test_circles_are_found() -> None:
    """The search itself: a circle of two, one of three, and none."""
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"d"}, "d": {"e"}, "e": {"c", "a"}, "f": {"a"}}) == [
        ("a", "b"),
        ("c", "d", "e"),
    ]
    assert not circles({"a": {"b"}, "b": {"c"}, "c": set()})
