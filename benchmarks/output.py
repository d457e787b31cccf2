"""What a benchmark gives: tables to read, charts to look at, numbers for programs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measures import Spread
from dino_tracker_ros.evaluation.report.charts import HEIGHT, WIDTH, Axis
from dino_tracker_ros.evaluation.report.json_text import json_text
from dino_tracker_ros.evaluation.report.markup import Markup, element
from dino_tracker_ros.evaluation.report.style import STYLE
from dino_tracker_ros.evaluation.table import aligned
from dino_tracker_ros.visualization.output import atomic_output

JSON_NAME, PLOT_NAME = "benchmarks.json", "benchmarks.svg"

_TITLE = 24  # px above each chart
_GAP = 30
_SIZED = f"""
svg {{ background: var(--page); font-family: system-ui, sans-serif }}
.chart {{ width: {WIDTH}px; height: {HEIGHT}px; max-width: none }}
.title {{ font-weight: 600; font-size: 14px; fill: var(--text) }}
"""


@dataclass(frozen=True)
class Table:
    """Lines of cells, the first the columns' names, under a title if any, with notes below."""

    title: str
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Attributes:
        tables: for people.
        charts: (title, chart).
        numbers: the same for programs: whatever JSON can hold, or dataclasses of such.
    """

    tables: Sequence[Table]
    numbers: dict[str, Any]
    charts: Sequence[tuple[str, Markup]] = field(default=())


def table_text(table: Table) -> str:
    """As it is printed."""
    notes = [textwrap.fill(note, 100, initial_indent="  ") for note in table.notes]
    title = [table.title] if table.title else []
    return "\n".join([*title, aligned(table.lines, left_columns=1), *notes])


def write_results(folder: Path, about: dict[str, Any], results: dict[str, Result]) -> None:
    """Writes the numbers as JSON and all charts as one SVG.

    Raises:
        OutputError: the folder cannot be made or written to.
    """
    parts = {name: result.numbers for name, result in results.items()}
    with atomic_output(folder / JSON_NAME, overwrite=True) as temporary:
        temporary.write_text(json_text({"about": about, "benchmarks": parts}), encoding="utf-8")
    charts = [chart for result in results.values() for chart in result.charts]
    if charts:
        with atomic_output(folder / PLOT_NAME, overwrite=True) as temporary:
            temporary.write_text(plot(charts), encoding="utf-8")


def plot(charts: Sequence[tuple[str, Markup]]) -> str:
    """Charts two in a row, in one picture that stands alone."""
    parts = [element("style", Markup(STYLE + _SIZED))]
    for index, (title, chart) in enumerate(charts):
        x = _GAP + (index % 2) * (WIDTH + _GAP)
        y = _GAP + (index // 2) * (HEIGHT + _TITLE + _GAP)
        parts.append(element("text", title, x=x, y=y + 14, class_="title"))
        place = f'<svg x="{x}" y="{y + _TITLE}" width="{WIDTH}" height="{HEIGHT}" '
        parts.append(Markup(chart.replace("<svg ", place, 1)))
    rows, columns = math.ceil(len(charts) / 2), min(2, len(charts))
    width = _GAP + columns * (WIDTH + _GAP)
    height = _GAP + rows * (HEIGHT + _TITLE + _GAP)
    return element(
        "svg", parts, xmlns="http://www.w3.org/2000/svg", width=width, height=height,
        viewbox=f"0 0 {width} {height}",
    )  # fmt: skip


def log_axis(
    title: str, values: Sequence[float], ticks: Sequence[tuple[float, str]] = ()
) -> Axis:
    """A logarithmic axis around positive values; charts place the decimal logarithms on it.

    Args:
        ticks: values and how they are written; without them the powers of ten.
    """
    low, high = math.log10(min(values)), math.log10(max(values))
    if not ticks:
        low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
        ticks = [(10.0**power, f"{10.0**power:g}") for power in range(low, high + 1)]
    rim = 0.04 * max(high - low, 0.1)
    return Axis(title, low - rim, high + rim, [(math.log10(at), text) for at, text in ticks])


def seconds_text(seconds: Spread) -> str:
    """The median, and smallest and largest where there are several."""
    if seconds.count == 1:
        return number(seconds.median)
    return f"{number(seconds.median)} ({number(seconds.low)}–{number(seconds.high)})"


def number(value: float) -> str:
    """Three digits that mean something, a dash for what is unknown."""
    if not math.isfinite(value):
        return "-"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    size = round(abs(value), 3)
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}"
