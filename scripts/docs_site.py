"""Hook mkdocs: pages that stand elsewhere in the repository, the API reference, and links that leave docs/.

Pages are written for GitHub, where a link such as `../PAPER.md` or `../src/a2tgpo/redact.py` works. On the site the
first is a page and the second leads to the repository. A link to a file that does not exist is a warning, and so ends
`mkdocs build --strict`.
"""

from __future__ import annotations

import ast
import logging
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]

ELSEWHERE = {
    "PAPER.md": "paper.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "recipes/paper/README.md": "paper-recipes.md",
}
"""File of the repository -> page of the site. The README's place is taken by docs/index.md."""

REFERENCE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "trainer": (
        "Trainer and configuration",
        "Inside Hugging Face TRL. `from a2tgpo import A2TGPOConfig, A2TGPOTrainer, TagRollout`.",
        (
            "integrations.trl.trainer.A2TGPOTrainer",
            "integrations.trl.config.A2TGPOConfig",
            "integrations.trl.rollout_func.TagRollout",
        ),
    ),
    "core": (
        "Core mathematics",
        "Padded tensors in, padded tensors out; torch only. `import a2tgpo.core`.",
        ("core", "core.turn_batch.plain_credit"),
    ),
    "methods": ("Methods", "One row of a table for each method.", ("methods",)),
    "signals": ("Signals", "The worth of a turn.", ("signals", "signals.answer_likelihood")),
    "environments": (
        "Environments",
        "What answers the policy.",
        (
            "environments",
            "environments.mcp_tools",
            "environments.textarena_game",
            "environments.gymnasium_text",
            "environments.openenv_client",
            "environments.verifiers_environment",
        ),
    ),
    "rollout": (
        "Rollouts",
        "Turns, conversations and generation.",
        (
            "rollout.agent",
            "rollout.play.RolloutLimits",
            "rollout.protocol",
            "rollout.turn_protocol",
            "rollout.strategies",
            "rollout.types",
            "rollout.engine",
        ),
    ),
    "pipeline": ("Pipeline", "From rollouts to the loss, for any engine.", ("pipeline",)),
    "retrieval": (
        "Search",
        "Corpora, indexes and servers.",
        (
            "retrieval.source",
            "retrieval.retriever",
            "retrieval.corpus",
            "retrieval.bm25",
            "retrieval.client",
            "retrieval.settings",
        ),
    ),
    "data": (
        "Data and rewards",
        "Questions, gold answers and outcomes.",
        ("data.formats", "data.world", "data.ideal_reader", "rewards", "gold"),
    ),
    "evaluate": (
        "Evaluation",
        "Scores, intervals and tests.",
        ("evaluate.outcome", "evaluate.scores", "evaluate.statistics"),
    ),
    "run": (
        "Recipes and runs",
        "What a recipe says and what a run leaves.",
        ("run.recipe", "run.environment_keys", "run.recipe_file", "run.directory"),
    ),
    "verl": ("Clusters", "The keys `+a2tgpo.*` of a verl command.", ("integrations.verl.credit_settings",)),
    "errors": ("Errors", "What a user can meet; each message names the value and the remedy.", ("errors",)),
}
"""Page under api/ -> title, a first sentence, and what of `a2tgpo` it documents."""

KEYS = {
    "A recipe: task, rollouts, warm start, evaluation": ("run/recipe.py", "Recipe"),
    "A recipe: environments": ("run/environment_keys.py", "EnvironmentKeys"),
    "A recipe, and `A2TGPOConfig`: credit, beside everything of TRL's GRPOConfig": (
        "integrations/trl/config.py",
        "A2TGPOConfig",
    ),
    "`a2tgpo eval` on benchmarks": ("evaluate/eval_config.py", "EvalConfig"),
}
"""Heading -> file and class whose fields are keys."""

_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?(?P<after>\))")
_log = logging.getLogger("mkdocs.hooks.docs_site")


def on_config(config: Any) -> Any:
    """Name the repository once, in pyproject.toml, and leave no page of docs/ out of the navigation.

    The repository is a plain link, so that no page asks its host for figures.
    """
    listed = {page for section in config.nav for pages in section.values() for each in pages for page in each.values()}
    if others := sorted({path.name for path in (ROOT / "docs").glob("*.md")} - listed):
        config.nav.append({"More": list(others)})
    config.extra["social"] = [{"icon": "fontawesome/brands/git-alt", "link": REPOSITORY, "name": "Source"}]
    return config


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that stand elsewhere, and the reference."""
    for source, page in ELSEWHERE.items():
        if files.get_file_from_path(page) is None:
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, page, content=text))
    for name, text in (*reference_pages(), ("keys", keys_page())):
        files.append(File.generated(config, f"api/{name}.md", content=text))
    return files


def reference_pages() -> Iterator[tuple[str, str]]:
    """Yield name and Markdown of each page of the API reference."""
    rows = "\n".join(f"| [{title}]({name}.md) | {what} |" for name, (title, what, _) in REFERENCE.items())
    rows += "\n| [Keys and flags](keys.md) | Every key of a recipe, every flag of an evaluation. |"
    yield "index", f"# Reference\n\nMade from the docstrings.\n\n| page | |\n|---|---|\n{rows}\n"
    for name, (title, what, objects) in REFERENCE.items():
        yield name, "\n\n".join([f"# {title}", what, *(f"::: a2tgpo.{each}" for each in objects)])


def keys_page() -> str:
    """Return the Markdown of all keys, read from the source: the package need not be installed."""
    parts = ["# Keys and flags", "`a2tgpo keys` prints these, TRL's and the model's among them."]
    for heading, (path, name) in KEYS.items():
        module = ast.parse((ROOT / "src" / "a2tgpo" / path).read_text(encoding="utf-8"))
        (found,) = (node for node in module.body if isinstance(node, ast.ClassDef) and node.name == name)
        rows = [_row(node) for node in found.body if isinstance(node, ast.AnnAssign)]
        parts += [f"## {heading}", "\n".join(["| key | type | default | |", "|---|---|---|---|", *rows])]
    return "\n\n".join(parts)


def _row(key: ast.AnnAssign) -> str:
    """Return the row of a field, whose default and help stand in a call of `field` or of a function around it."""
    assert isinstance(key.value, ast.Call), ast.unparse(key)
    options = {option.arg: option.value for option in key.value.keywords}
    metadata = options.get("metadata")
    if isinstance(metadata, ast.Dict):
        meaning, default = metadata.values[0], options.get("default") or options.get("default_factory")
    else:
        meaning, default = key.value.args[0], (key.value.args[1:] or [None])[0]
    shown = "required" if default is None else f"`{ast.unparse(default).removeprefix('lambda: ')}`"
    cells = (f"`{ast.unparse(key.target)}`", f"`{ast.unparse(key.annotation)}`", shown, _text(meaning))
    return f"| {' | '.join(cell.replace('|', '&#124;') if '`' not in cell else cell for cell in cells)} |"


def _text(node: ast.expr) -> str:
    """Return a text of the source, `…` for what it puts in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return str(ast.literal_eval(node))


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Turn links of the repository into links of the site."""
    sources = {page: source for source, page in ELSEWHERE.items()}
    uri = page.file.src_uri
    own = f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else sources.get(uri)
    return markdown if own is None else rewrite(markdown, own, uri)


def rewrite(markdown: str, source: str, uri: str) -> str:
    """Return `markdown`, the file `source` of the repository, with links as the page `uri` of the site has them."""

    def follow(match: re.Match[str]) -> str:
        target = match["target"]
        if not target or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            _log.warning("%s links to %s, which is not in the repository", source, path)
            return match[0]
        if path in ELSEWHERE or (path.startswith("docs/") and path.endswith((".md", ".svg", ".png"))):
            there = ELSEWHERE.get(path, path.removeprefix("docs/"))
            link = posixpath.relpath(there, posixpath.dirname(uri) or ".")
        else:
            link = f"{REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
        return f"{match['before']}{link}{match['anchor'] or ''}{match['after']}"

    return _LINK.sub(follow, markdown)
