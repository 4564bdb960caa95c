"""Draw learning curves: one small panel per arm and metric, on common axes, over its baseline's curve in grey."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from a2tgpo.compare.matrix import Matrix
from a2tgpo.compare.measured import read_metrics
from a2tgpo.evaluate.statistics import Mean
from a2tgpo.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_METRICS = {"reward": "reward per rollout", "rollout/searches": "searches per rollout"}
_LEGEND = "mean over seeds with 95 % interval"
_BINS = 20
_COLUMNS = 5
_BLUE, _GREY = "#0072b2", "#767676"  # told apart by colour-blind readers and in grey print


@dataclass(frozen=True)
class Curve:
    """Hold the mean over seeds at each of `x` updates, with its interval; None where one seed gives none."""

    x: list[float]
    points: list[Mean]


def curve(runs: Sequence[Sequence[dict[str, Any]]], metric: str) -> Curve | None:
    """Average `metric` against updates, of runs of one method, which log it about as often.

    At most `_BINS` points: neighbouring batches of a run are averaged before runs are.
    """
    # A line has null for a number that was not finite.
    series = [[(row["step"], row[metric]) for row in run if row.get(metric) is not None] for run in runs]
    n = min((len(points) for points in series), default=0)
    if n == 0:
        return None
    size = -(-n // _BINS)
    bins = [[run[start : start + size] for run in series] for start in range(0, n - n % size, size)]
    return Curve(
        [fmean(step for run in seeds for step, _ in run) for seeds in bins],
        [Mean.of([fmean(value for _, value in run) for run in seeds]) for seeds in bins],
    )


def draw_curves(matrix: Matrix, path: Path) -> None:
    """Write an SVG of every arm's finished runs.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    curves = {metric: _curves(matrix, metric) for metric in _METRICS}
    baselines = matrix.baselines
    grey = " (grey: what it is compared with)" if baselines else ""
    names = [name for name in matrix.arms if all(name in of for of in curves.values())]
    if not names:
        return
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    with rc_context({"svg.hashsalt": "a2tgpo", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(2.1 * columns + 0.6, 1.5 * rows * len(_METRICS) + 0.8), layout="constrained")
        blocks = figure.subfigures(len(_METRICS), 1, squeeze=False)[:, 0]
        for block, (metric, label) in zip(blocks, _METRICS.items(), strict=True):
            block.suptitle(f"{label} in training: {_LEGEND}{grey}", x=0.01, ha="left", weight="bold")
            panels = block.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
            for k, (panel, name) in enumerate(zip(panels.flat, names, strict=False)):
                if baselines.get(name) in curves[metric]:
                    _draw(panel, curves[metric][baselines[name]], _GREY)
                _draw(panel, curves[metric][name], _BLUE)
                panel.set_title(_title(matrix, name), fontsize=8, loc="left")
                panel.spines[["top", "right"]].set_visible(False)
                panel.tick_params(labelbottom=k + columns >= len(names))
            for panel in panels.flat[len(names) :]:
                panel.set_visible(False)
            block.supxlabel("updates")
        with new_file(path) as unfinished:
            figure.savefig(unfinished, format="svg", metadata={"Date": None})


def _curves(matrix: Matrix, metric: str) -> dict[str, Curve]:
    found = {name: curve([read_metrics(run) for run in _logs(matrix, name)], metric) for name in matrix.arms}
    return {name: points for name, points in found.items() if points is not None}


def _logs(matrix: Matrix, arm: str) -> list[Path]:
    cells = [matrix.cell(arm, seed) for seed in matrix.seeds]
    return [cell.directory.metrics for cell in cells if cell.finished]


def _title(matrix: Matrix, arm: str) -> str:
    done = len(_logs(matrix, arm))
    return arm if done == matrix.n_seeds else f"{arm} ({done} of {matrix.n_seeds} seeds)"


def _draw(panel: Axes, line: Curve, colour: str) -> None:
    panel.plot(line.x, [point.value for point in line.points], color=colour, linewidth=1.2)
    low = [point.value if point.low is None else point.low for point in line.points]
    high = [point.value if point.high is None else point.high for point in line.points]
    panel.fill_between(line.x, low, high, color=colour, alpha=0.2, linewidth=0)
