"""What pages tell a reader to type can be typed: flags and recipes are ones that there are, and so are files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from a2tgpo.cli import _parser
from a2tgpo.run.recipe_file import load_recipe
from tests.docs.test_pages import PAGES, ROOT

FILE = re.compile(r"(tests|docs|scripts|recipes|src|examples|benchmarks)/[\w./-]+|\w+/[\w./-]+\.py")
STANDS_FOR = {
    "M": "a2tgpo",
    "S": "0",
    "NAME": "hops_cpu",
    "RECIPE": "hops_cpu",
    "RECIPE.yaml": "hops_cpu",
    "guess.yaml": "hops_cpu",
}
"""Letters, words and a page's own recipe that stand for something of the reader's."""


def commands(text: str) -> list[str]:
    """Return the whole commands of a page, those of blocks and those within a sentence."""
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in blocks.splitlines()]
    inline = [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))]
    whole = [line for line in [*lines, *inline] if re.match(r"a2tgpo \w+ \S+", line)]
    return [line for line in whole if not re.search(r"…|\[|--help|^a2tgpo \w+ --\w+$", line)]


COMMANDS = [(page.name, command) for page in PAGES for command in dict.fromkeys(commands(page.read_text("utf-8")))]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_parse(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each flag is one of its command or a key of its recipe, with a value that it takes. A command that is told in
    part, as beside "and so on", may lack what is required."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)[1:]]
    try:
        arguments, flags = _parser().parse_known_args(words)
    except SystemExit:
        assert "the following arguments are required" in capsys.readouterr().err, command
        return
    if words[0] not in ("train", "compare"):
        assert not flags or words[0] in ("verl", "eval"), flags
        return
    for recipe in (getattr(arguments, "tasks", None) or arguments.recipe).split(","):
        if not recipe.startswith(("runs/", "my_")):
            assert load_recipe(recipe, [*flags, "--use_cpu", "true", "--bf16", "false"]).training.output_dir


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_exist(page: Path) -> None:
    """Every file of the repository that a page names in code is there: from its top, from the package, or from the
    page's own folder."""
    words = [
        word.strip("(),;") for code in re.findall(r"`([^`\n]+)`", page.read_text("utf-8")) for word in code.split()
    ]
    named = {word for word in words if FILE.fullmatch(word)}
    for path in named:
        assert any((top / path).exists() for top in (ROOT, ROOT / "src" / "a2tgpo", page.parent)), path
