"""Run `a2tgpo COMMAND`: train, verl, eval, compare, report, index, serve, recipes, launcher, keys.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import select
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import a2tgpo
from a2tgpo import processes
from a2tgpo.compare.compare_command import add_compare_command
from a2tgpo.errors import KEPT, A2TGPOError, RecipeError, disk_failure
from a2tgpo.messages import quieten, silence_imports
from a2tgpo.redact import redact
from a2tgpo.report.report_command import add_report_command
from a2tgpo.retrieval.index_command import add_index_command
from a2tgpo.retrieval.server.serve_command import add_serve_command
from a2tgpo.run.eval_command import add_eval_command
from a2tgpo.run.verl_command import add_verl_command

if TYPE_CHECKING:
    from rich.console import Console

_EXIT_FAILURE, _EXIT_USAGE = 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` names; return the exit status (2: the user's input, 130 and 143: interrupted)."""
    given = list(sys.argv[1:] if argv is None else argv)
    imports, rest = _take_imports(given)
    arguments, overrides = _parser().parse_known_args(rest)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    silence_imports()
    from rich.console import Console

    sigterm = _SigTerm()
    try:
        sigterm.begin()
        processes.check_launcher()
        if (several := processes.launched()) > 1 and rest[0] != "train":
            raise RecipeError(f"`a2tgpo {rest[0]}` runs in one process, and a launcher started {several}; train can")
        if not processes.is_main():
            os.environ |= {"TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        console = Console(quiet=not processes.is_main())
        status = int(arguments.run(arguments, [*overrides, *_plugins(imports, rest[0])], console))
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as interrupt:
        status = 128 + (signal.SIGTERM if sigterm.came else getattr(interrupt, "signum", signal.SIGINT))
        _say(f"\ninterrupted: {str(interrupt) or 'nothing more was saved'}")
        ending: BaseException = interrupt
    except Exception as error:
        status = 128 + signal.SIGPIPE if _reader_left(error) else _explain(error)
        ending = error
    finally:
        sigterm.end()
    if KEPT in getattr(ending, "__notes__", ()):
        program = "LAUNCHER -m a2tgpo" if processes.launched() > 1 else "a2tgpo"
        again = shlex.join([*_without_resume(given), "--resume_from_checkpoint", "true"])
        _say(f"continue with: {program} {again}")
    return status


class _SigTerm:
    """Let SIGTERM, which Slurm and Docker send, end a command as Ctrl-C does wherever nothing else waits for it.

    Attributes:
        came: whether it came.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None
        self._handles = threading.current_thread() is threading.main_thread()  # Python lets no other thread

    def begin(self) -> None:
        if self._handles:
            self._before = signal.signal(signal.SIGTERM, self._interrupt)

    def end(self) -> None:
        if self._handles:
            signal.signal(signal.SIGTERM, self._before)

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


def _reader_left(error: Exception) -> bool:
    """Tell whether whoever read the output has gone, as `| head` does once it has its lines; nothing is said then."""
    if not isinstance(error, BrokenPipeError):
        return False
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # errors are told without being asked for
    if not output.poll(0):
        return False  # another pipe's
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
    return True


def _explain(error: Exception) -> int:
    """Print an error in one line, or its traceback where it is no user's fault; return the exit status."""
    if isinstance(error, A2TGPOError) or (isinstance(error, ValueError) and _raised_here(error)):
        _say(f"error: {error}")
        return _EXIT_USAGE
    if processes.SAID_ELSEWHERE in getattr(error, "__notes__", ()):
        return _EXIT_FAILURE
    if (failure := disk_failure(error)) is not None:
        _say(f"error: {failure}; nothing that was written before is damaged")
        return _EXIT_USAGE
    _say(traceback.format_exc())
    return _EXIT_FAILURE


def _raised_here(error: Exception) -> bool:
    """Tell whether code of this package raised `error`: its ValueErrors name an argument, its value and the remedy."""
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(raised_in).is_relative_to(Path(__file__).parent)


def _say(text: str) -> None:
    if processes.says(text):
        print(redact(text), file=sys.stderr)


def _without_resume(arguments: list[str]) -> list[str]:
    """Return a command line without an earlier `--resume_from_checkpoint VALUE`, whose place a new one takes."""
    kept, skip = [], False
    for argument in arguments:
        name = argument.partition("=")[0].replace("-", "_")
        if name == "__resume_from_checkpoint":
            skip = "=" not in argument
        elif skip:
            skip = False
        else:
            kept.append(argument)
    return kept


def _take_imports(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split `--import MODULE` off a command line, wherever it stands: the modules, and the rest."""
    modules, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name == "--import":
            modules.append(value if equals else next(waiting, ""))
        else:
            rest.append(argument)
    return modules, rest


def _plugins(modules: list[str], command: str) -> list[str]:
    """Return the flags that hand `modules` to a recipe; import them here for a report, which has none."""
    if not modules or command in ("train", "compare", "eval"):
        return [part for module in modules for part in ("--import", module)]
    if command != "report":
        raise RecipeError(f"`a2tgpo {command}` takes no --import")
    from a2tgpo.run.recipe_file import import_plugins

    import_plugins({"plugins": modules}, [])
    return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="a2tgpo", description="Train search agents with per-turn credit.")
    parser.add_argument("--version", action="version", version=f"a2tgpo {a2tgpo.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _command(commands, "train", "run a recipe from warm start to final table", _train)
    train.usage = "a2tgpo train RECIPE [--key value ...]"
    train.epilog = (
        "Every recipe key is a flag too, such as --max_steps 50; `a2tgpo keys` lists them all. --import MODULE imports "
        "a module of yours first, for the methods it registers."
    )
    train.add_argument("recipe", metavar="RECIPE", help="a YAML file, or a name that `a2tgpo recipes` lists")
    add_verl_command(commands)
    add_eval_command(commands)
    add_compare_command(commands)
    add_report_command(commands)
    add_index_command(commands)
    add_serve_command(commands)
    _command(commands, "recipes", "list the recipes of the package", _recipes)
    launcher = _command(commands, "launcher", "print the path of a configuration for `accelerate launch`", _launcher)
    launcher.add_argument("name", metavar="NAME", nargs="?", help="none: list them")
    _command(commands, "keys", "list every recipe key with its default", _keys)
    return parser


def _command(commands: Any, name: str, summary: str, run: Callable[..., int]) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
    command.set_defaults(run=run)
    return command


def _train(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    from a2tgpo.run.directory import RunDirectory
    from a2tgpo.run.recipe_file import load_recipe

    config = load_recipe(arguments.recipe, overrides)
    quieten()
    directory = RunDirectory(Path(config.training.output_dir))
    if config.resumes:
        directory.check_begun()
    else:
        directory.check_new()
    from a2tgpo.run.train import train

    train(config, directory, console)
    return 0


def _recipes(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    from a2tgpo.run.recipe_file import describe_recipes

    _take_nothing("recipes", overrides)
    print(*describe_recipes(), sep="\n")
    return 0


def _launcher(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    from a2tgpo.run.recipe_file import describe_launchers, find_launcher

    _take_nothing("launcher", overrides)
    print(*([find_launcher(arguments.name)] if arguments.name else describe_launchers()), sep="\n")
    return 0


def _keys(arguments: argparse.Namespace, overrides: list[str], console: Console) -> int:
    from a2tgpo.run.recipe_file import describe_keys

    _take_nothing("keys", overrides)
    print(describe_keys())
    return 0


def _take_nothing(command: str, overrides: list[str]) -> None:
    if overrides:
        raise RecipeError(f"`a2tgpo {command}` takes no arguments, got {' '.join(overrides)!r}")


if __name__ == "__main__":
    sys.exit(main())
