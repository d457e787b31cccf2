"""Scores as text in aligned columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dino_tracker_ros.evaluation.scores import HEADLINES, Counts, Metric, Score, scores


@dataclass(frozen=True)
class Row:
    """One line of the table: how one method did, and the seconds it took.

    Attributes:
        clip: its name.
        counts: of the one clip, or of all that the line is about.
    """

    clip: str
    method: str
    counts: tuple[Counts, ...]
    seconds: float


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per method about all its clips, with the mean of their seconds."""
    means = []
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        counts = tuple(clip for row in own for clip in row.counts)
        means.append(Row("mean", method, counts, float(np.mean([row.seconds for row in own]))))
    return means


def format_table(rows: Sequence[Row]) -> str:
    """The rows in aligned columns: those headline scores that some row has, shares in percent."""
    found = [scores(row.counts, resamples=0) for row in rows]
    metrics = [metric for metric in HEADLINES if any(metric.name in each for each in found)]
    lines = [["clip", "method", *(metric.title for metric in metrics), "seconds"]]
    for row, each in zip(rows, found):
        cells = [score_text(metric, each.get(metric.name)) for metric in metrics]
        lines.append([row.clip, row.method, *cells, f"{row.seconds:.1f}"])
    return aligned(lines, left_columns=2)


def score_text(metric: Metric, score: Score | None) -> str:
    """Shares in percent with one decimal, other values with two, a dash where there is none."""
    if score is None:
        return "-"
    return f"{100 * score.value:.1f}" if metric.unit == "%" else f"{score.value:.2f}"


def aligned(lines: Sequence[Sequence[str]], left_columns: int) -> str:
    """Cells in columns of equal width; all but the first `left_columns` to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < left_columns else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )
