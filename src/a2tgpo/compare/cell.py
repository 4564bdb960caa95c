"""One run of a comparison, in an ordinary run directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from a2tgpo.run.directory import MODES, RunDirectory


@dataclass(frozen=True)
class Cell:
    """One run. `start`, where given, is the run whose warm start and evaluation before the updates it takes over."""

    directory: RunDirectory
    flags: tuple[str, ...]
    start: Cell | None = None

    @property
    def name(self) -> str:
        return f"{self.directory.root.parent.name}/{self.directory.root.name}"

    @property
    def log(self) -> Path:
        return self.directory.root / "log.txt"

    @property
    def finished(self) -> bool:
        return self.directory.finished

    def prepare(self) -> None:
        """Make the directory, with links to what the start has."""
        self.directory.root.mkdir(parents=True, exist_ok=True)
        if self.start is None:
            return
        ours, theirs = self.directory, self.start.directory
        shared = [(ours.warm_start, theirs.warm_start)]
        shared += [(ours.evaluation(f"before_{mode}"), theirs.evaluation(f"before_{mode}")) for mode in MODES]
        for link, target in shared:
            if target.exists() and not link.exists():
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(os.path.relpath(target, link.parent), target_is_directory=target.is_dir())

    def arguments(self, recipe: Path) -> list[str]:
        """Of `a2tgpo`, to begin the run or to go on with it."""
        resume = ["--resume_from_checkpoint", "true"] if self.directory.config.exists() else []
        return ["train", str(recipe), *self.flags, "--output_dir", str(self.directory.root), *resume]
