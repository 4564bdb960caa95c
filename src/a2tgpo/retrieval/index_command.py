"""Run `a2tgpo index CORPUS --backend bm25|dense|hybrid -o INDEX` and `a2tgpo index --verify INDEX`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from a2tgpo.retrieval.settings import IndexSettings

_BM25, _DENSE = ("title_weight",), ("encoder", "query_prefix", "passage_prefix", "max_length", "dtype", "faiss_type")


def add_index_command(commands: Any) -> None:
    """Add `index` to the subparsers of the command line."""
    summary = "build a search index of a corpus"
    command = commands.add_parser(
        "index",
        help=summary,
        description=summary,
        epilog="The same command again goes on where it was stopped.",
        allow_abbrev=False,
    )
    command.add_argument("corpus", metavar="CORPUS", nargs="?", help='JSONL, plain or gzipped, of {"id", "contents"}')
    command.add_argument("--backend", choices=("bm25", "dense", "hybrid"))
    command.add_argument("-o", "--output_dir", type=Path, metavar="INDEX", help="folder of the index")
    command.add_argument(
        "--verify", type=Path, metavar="INDEX", help="build nothing: read every file of an index and check its SHA-256"
    )
    command.add_argument("--title_weight", type=int, help="BM25: how often a title counts (default: 1)")
    command.add_argument(
        "--encoder", help="dense: Hub name or folder of a sentence-transformers model (default: intfloat/e5-base-v2)"
    )
    command.add_argument("--query_prefix", help="dense: before every query (default: as the encoder was trained)")
    command.add_argument("--passage_prefix", help="dense: before every passage (default: as the encoder was trained)")
    command.add_argument("--max_length", type=int, help="dense: tokens read of a passage (default: 256)")
    command.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="dense: the encoder's precision (default: float32)"
    )
    command.add_argument(
        "--faiss_type", choices=("flat", "hnsw", "ivfpq", "sq8"), help="dense: how vectors are kept (default: flat)"
    )
    command.add_argument(
        "--faiss_index",
        metavar="FILE",
        help="dense: take the vectors of this faiss index, such as Search-R1's e5_Flat.index",
    )
    command.set_defaults(run=run_index)


def run_index(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    """Build the index, or what is missing of it, and say what it is; or verify one.

    Raises:
        CorpusError, IndexMismatch, RecipeError: see `build_index`; or an argument that does not fit the back end.
    """
    from a2tgpo.messages import quieten
    from a2tgpo.retrieval.build import build_index

    if overrides:
        raise RecipeError(f"`a2tgpo index` does not know {' '.join(overrides)!r}; see a2tgpo index --help")
    if arguments.verify is not None:
        return _verify(arguments, console)
    for name, shown in (("corpus", "CORPUS"), ("backend", "--backend"), ("output_dir", "-o INDEX")):
        if getattr(arguments, name) is None:
            raise RecipeError(f"`a2tgpo index` needs {shown}; see a2tgpo index --help")
    settings = _settings(arguments)
    if arguments.faiss_index is not None and settings.dense is None:
        raise RecipeError("--faiss_index: a bm25 index has no vectors; use --backend dense or hybrid")
    quieten()
    try:
        manifest = build_index(arguments.corpus, arguments.output_dir, settings, faiss_index=arguments.faiss_index)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished stages are kept; the same command goes on") from None
    built = f"{arguments.output_dir}: {manifest.settings.backend} index of {manifest.n_passages:,} passages"
    if (dense := manifest.settings.dense) is not None:
        prefixes = f"query prefix {dense.query_prefix!r}, passage prefix {dense.passage_prefix!r}"
        built += f"; {dense.faiss_type}, {manifest.dimension} dimensions, {prefixes}"
    console.print(built, highlight=False, soft_wrap=True, markup=False)
    return 0


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    from a2tgpo.retrieval.manifest import verify

    if arguments.corpus is not None or arguments.output_dir is not None:
        raise RecipeError("--verify builds nothing: give the folder of an index, and neither CORPUS nor -o")
    n_files = verify(arguments.verify)
    console.print(
        f"{arguments.verify}: {n_files} files are what was built", highlight=False, soft_wrap=True, markup=False
    )
    return 0


def _settings(arguments: argparse.Namespace) -> IndexSettings:
    from a2tgpo.retrieval.settings import BM25Settings, DenseSettings, IndexSettings

    def given(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(arguments, name)) is not None}

    bm25, dense = given(_BM25), given(_DENSE)
    if "encoder" in dense and Path(dense["encoder"]).is_dir():
        dense["encoder"] = str(Path(dense["encoder"]).absolute())
    try:
        return IndexSettings.of(
            arguments.backend, BM25Settings(**bm25) if bm25 else None, DenseSettings(**dense) if dense else None
        )
    except ValueError as failure:
        raise RecipeError(str(failure)) from failure
