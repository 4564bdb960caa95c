"""Hold the package to the picture of its packages, read from the source text of every file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import a2tgpo

ROOT = Path(a2tgpo.__file__).parent
FILES = {".".join(("a2tgpo", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of ours that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in names)


def test_no_file_is_part_of_a_cycle_of_imports():
    """Proves that the files can be read in an order in which each needs only what came before it."""
    graph = {name: set(imported(path)) - {name} for name, path in MODULES.items()}
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the cycle
    assert set(order) == set(MODULES)


def test_core_and_pipeline_know_no_engine():
    """Proves that no import of an engine, nor of the packages above them, stands anywhere in core/ and pipeline/."""
    engines = {"trl", "accelerate", "verl", "ray", "peft", "datasets"}
    above = ("a2tgpo.integrations", "a2tgpo.run", "a2tgpo.evaluate", "a2tgpo.compare", "a2tgpo.report")
    for name, path in MODULES.items():
        if name.split(".")[1:2] in (["core"], ["pipeline"]):
            nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            plain = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            named = {(node.module or "").split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
            assert not (plain | named) & engines, name
            assert not [each for each in imported(path) if each.startswith(above)], name


def test_only_the_adapter_takes_a_trainer():
    """Proves that no function outside integrations/trl/ is handed a trainer to read a few fields of it."""
    for path in ROOT.rglob("*.py"):
        if "integrations/trl/" in path.as_posix():
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                kinds = {ast.unparse(each.annotation) for each in arguments if each.annotation}
                where = f"{path}:{node.lineno} {node.name}"
                assert not [kind for kind in kinds if re.search(r"Trainer\b", kind)], where
                assert "trainer" not in {each.arg for each in arguments}, where
