"""PAPER.md and the documents of the methods name nothing that is not there."""

import importlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

from a2tgpo import A2TGPOConfig
from a2tgpo.methods import METHODS, Method
from a2tgpo.run.recipe import Recipe

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("PAPER.md", "docs/methods.md", "docs/baselines.md")
each_document = pytest.mark.parametrize("document", DOCUMENTS)


def quoted(document: str) -> list[str]:
    """Return what stands in backquotes, code blocks left out."""
    text = re.sub(r"```.*?```", "", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"`([^`\n]+)`", text)


@each_document
def test_names_can_be_imported(document):
    """Every dotted name, `core.policy_loss` or `a2tgpo.methods.METHODS`, is found in the package."""
    packages = {path.stem for path in (ROOT / "src" / "a2tgpo").iterdir()}
    names = [n.removeprefix("a2tgpo.") for n in quoted(document) if re.fullmatch(r"[a-z]\w*(\.\w+)+(\(.*\))?", n)]
    names = [n.partition("(")[0] for n in names if n.split(".")[0] in packages and not n.endswith((".py", ".md"))]
    assert names
    for name in names:
        assert found(name), f"{document}: {name}"


def found(name: str) -> bool:
    """Tell if a name is a module of the package or an attribute of one."""
    parts = ["a2tgpo", *name.split(".")]
    for split in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[split:]:
            value = getattr(value, attribute, None)
        return value is not None
    return False


@each_document
def test_options_and_rows_exist(document):
    """Every `key: value` is a key of recipes, every `key=value` one of a row or its credit; rows are rows."""
    options = {f.name for part in (A2TGPOConfig, Recipe) for f in fields(part)}
    of_rows = {f.name for row in METHODS.values() for part in (row, row.credit) for f in fields(part)}
    of_rows |= {f.name for f in fields(Method)} | options
    for text in quoted(document):
        if match := re.fullmatch(r"(\w+): \S+", text):
            assert match[1] in options, f"{document}: {text}"
        for key in re.findall(r"(?:^|, )(\w+)=", text):
            assert key in of_rows | {"turn_signal"}, f"{document}: {text}"
    for row in re.findall(
        r"^(?:- )?\*\*`([\w+-]+)`\*\*", (ROOT / document).read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        assert row in {*METHODS, "survivors", "absorbing", "active"}, f"{document}: {row}"
