"""Write the figures' numbers as JSON or CSV, and the figures as PNG."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from a2tgpo.errors import RecipeError
from a2tgpo.files import new_file
from a2tgpo.report.pack import plain
from a2tgpo.report.series import Arm, Figure, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_NUMBERS = ("y", "low", "high", "least", "most", "mean", "n")
_COLUMNS = ("figure", "runs", "series", "x", *_NUMBERS)


def write_json(path: Path, figures: list[Figure], arms: list[Arm]) -> None:
    """Write `{"runs": [[name, ...], ...], "figures": [...]}`; a series' `arm` is an index into `runs`."""
    data = {
        "runs": [[plain(run.name) for run in arm.runs] for arm in arms],
        "figures": [plain(asdict(figure)) for figure in figures],
    }
    with new_file(path) as unfinished:
        text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
        unfinished.write_text(f"{text}\n", encoding="utf-8")


def write_csv(path: Path, figures: list[Figure], arms: list[Arm]) -> None:
    """Write one row a point, columns `figure, runs, series, x` and a series' numbers; empty where there is none.

    A text that a spreadsheet would read as a formula begins with an apostrophe.
    """
    with new_file(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for figure in figures:
            for series in figure.series:
                empty = [None] * len(series.x)
                points = zip(series.x, *(getattr(series, name) or empty for name in _NUMBERS), strict=True)
                names = [figure.id, arms[series.arm].name, series.label]
                writer.writerows([_cell(value) for value in (*names, *point)] for point in points)


def _cell(value: Any) -> Any:
    value = plain(value)
    return f"'{value}" if isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@")) else value


def write_png(folder: Path, figures: list[Figure], arms: list[Arm]) -> None:
    """Draw one `<figure>.png` a figure; of a matrix, one for each recipe.

    Raises:
        RecipeError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise RecipeError("--format png needs matplotlib: pip install 'a2tgpo[report]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        for name, series in _panels(figure, arms).items():
            canvas = Canvas(figsize=(6.4, 4.0), layout="constrained", dpi=150)
            axes = canvas.subplots()
            _DRAW[figure.kind](axes, figure, series, arms)
            axes.set_title(figure.title, loc="left")
            with new_file(folder / f"{name}.png") as unfinished:
                canvas.savefig(unfinished, format="png")


def _panels(figure: Figure, arms: list[Arm]) -> dict[str, list[Series]]:
    if figure.kind != "matrix" or len(arms) == 1:
        return {figure.id: figure.series}
    return {f"{figure.id}-{arm + 1}": [s for s in figure.series if s.arm == arm] for arm in range(len(arms))}


def _name(series: Series, arms: list[Arm]) -> str:
    return ", ".join(filter(None, [arms[series.arm].name if len(arms) > 1 else "", series.label]))


def _lines(axes: Axes, figure: Figure, series: list[Series], arms: list[Arm]) -> None:
    for line in series:
        values: list[Any] = [float("nan") if y is None else y for y in line.y]
        (drawn,) = axes.plot(line.x, values, label=_name(line, arms), marker="o" if len(line.x) < 9 else None)
        if line.low is not None and line.high is not None:
            axes.fill_between(line.x, line.low, line.high, alpha=0.15, color=drawn.get_color(), linewidth=0)
    _label(axes, figure, series, arms)


def _boxes(axes: Axes, figure: Figure, series: list[Series], arms: list[Arm]) -> None:
    width = 0.8 / len(series)
    for k, line in enumerate(series):
        columns = zip(
            line.x, *(getattr(line, name) for name in ("y", "low", "high", "least", "most", "mean")), strict=True
        )
        boxes = [
            {"med": y, "q1": low, "q3": high, "whislo": least, "whishi": most, "mean": mean}
            for _, y, low, high, least, most, mean in columns
        ]
        places = [x + (k - (len(series) - 1) / 2) * width for x in line.x]
        drawn = axes.bxp(
            boxes, positions=places, widths=0.8 * width, showfliers=False, showmeans=True, manage_ticks=False
        )
        for part in drawn["boxes"]:
            part.set_color(f"C{k}")
        drawn["boxes"][0].set_label(_name(line, arms))
    axes.set_xticks(max((line.x for line in series), key=len))
    _label(axes, figure, series, arms)


def _histogram(axes: Axes, figure: Figure, series: list[Series], arms: list[Arm]) -> None:
    width = 0.8 / len(series)
    for k, line in enumerate(series):
        places = [x + (k - (len(series) - 1) / 2) * width for x in line.x]
        axes.bar(places, [y or 0.0 for y in line.y], width=width, label=_name(line, arms))
    axes.set_xticks(max((line.x for line in series), key=len))
    _label(axes, figure, series, arms)


def _label(axes: Axes, figure: Figure, series: list[Series], arms: list[Arm]) -> None:
    axes.set_xlabel(figure.x)
    axes.set_ylabel(figure.y)
    if any(_name(line, arms) for line in series):
        axes.legend(frameon=False)


def _bars(axes: Axes, figure: Figure, series: list[Series], arms: list[Arm]) -> None:
    left = [0.0] * len(series)
    for i, part in enumerate(series[0].x):
        width = [line.y[i] or 0.0 for line in series]
        axes.barh([arms[line.arm].name for line in series], width, left=left, label=part)
        left = [start + more for start, more in zip(left, width, strict=True)]
    axes.set_xlabel("seconds")
    axes.legend(frameon=False)


def _matrix(axes: Axes, figure: Figure, series: list[Series], arms: list[Arm]) -> None:
    values: list[Any] = [[float("nan") if y is None else y for y in row.y] for row in series]
    ticks = [0.5 + i for i in range(len(series))]
    mesh = axes.pcolormesh(values, vmin=0, vmax=1, cmap="cividis")
    axes.set_xticks(ticks, [str(x) for x in series[0].x])
    axes.set_yticks(ticks, [row.label for row in series])
    axes.set_xlabel(figure.x)
    assert axes.figure is not None
    axes.figure.colorbar(mesh, ax=axes)


_DRAW = {"steps": _lines, "boxes": _boxes, "histogram": _histogram, "parts": _bars, "matrix": _matrix}
