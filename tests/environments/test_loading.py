"""Dotted paths of recipes: what they name, and what was looked for where one names nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2tgpo.environments import EnvironmentPool, load_object


def test_objects_of_packages_and_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module beside the working directory is found without installing it; nested names work."""
    assert load_object("a2tgpo.environments:EnvironmentPool") is EnvironmentPool
    assert load_object("a2tgpo.environments.episodes:EnvironmentPool.open") is EnvironmentPool.open
    (tmp_path / "my_lake_7.py").write_text("class Lake:\n    length = 4\n")
    monkeypatch.chdir(tmp_path)
    assert load_object("my_lake_7:Lake").length == 4


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("a2tgpo.environments.EnvironmentPool", "write it as package.module:Name"),
        (":Lake", "write it as package.module:Name"),
        ("no_such_package.lake:Lake", "no module no_such_package.lake; looked in .* and the installed packages"),
        ("a2tgpo.environments:Lake", r"module a2tgpo.environments \(.*__init__.py\) has no Lake; it has Action"),
        ("broken_module_7:Lake", "importing broken_module_7 failed with ZeroDivisionError: division by zero"),
        ("needy_module_7:Lake", "importing needy_module_7 needs a module that is missing: no_such_dependency"),
    ],
)
def test_what_names_nothing_is_explained(path: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form, the module, the name, a module that fails, a dependency of it."""
    (tmp_path / "broken_module_7.py").write_text("1 / 0\n")
    (tmp_path / "needy_module_7.py").write_text("import no_such_dependency\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        load_object(path)
