"""The table of scores as text."""

from __future__ import annotations

import numpy as np

from dino_tracker_ros.evaluation.scores import METRICS, Counts, Score
from dino_tracker_ros.evaluation.table import Row, aligned, format_table, mean_rows, score_text


def counts(near: int, near_3px: int | None, right_flags: int | None) -> Counts:
    """Of one track, seen in 4 frames."""

    def one(value: int | None) -> np.ndarray | None:
        return None if value is None else np.array([value])

    zero, four = np.array([0]), np.array([4])
    return Counts(
        frames=four, visible=four, near=np.full((1, 5), near), switches=np.array([1]),
        still_windows=zero, still_squares=zero.astype(float), near_3px=one(near_3px),
        right_flags=one(right_flags),
    )  # fmt: skip


def test_one_line_per_row_with_the_scores_that_some_row_has():
    rows = [
        Row("a", "m", (counts(near=3, near_3px=1, right_flags=None),), 2.0),
        Row("b", "m", (counts(near=1, near_3px=None, right_flags=4),), 4.0),
    ]
    (mean,) = mean_rows(rows)
    lines = format_table([*rows, mean]).splitlines()
    head = ["clip", "method", "δ_3px", "δ_avg", "OA", "id", "switches", "seconds"]
    assert lines[0].split() == head
    assert lines[1].split() == ["a", "m", "25.0", "75.0", "-", "25.00", "2.0"]
    assert lines[2].split() == ["b", "m", "-", "25.0", "100.0", "25.00", "4.0"]
    assert lines[3].split() == ["mean", "m", "25.0", "50.0", "100.0", "25.00", "3.0"]


def test_a_mean_for_each_method():
    one = (counts(1, 1, None),)
    rows = [Row(clip, method, one, 1.0) for clip in ("a", "b") for method in ("x", "y")]
    assert [(row.clip, row.method, len(row.counts)) for row in mean_rows(rows)] == [
        ("mean", "x", 2), ("mean", "y", 2),
    ]  # fmt: skip


def test_numbers_are_written_with_their_units_digits():
    metrics = {metric.name: metric for metric in METRICS}
    score = Score(0.1234, 0, 1, 3)
    assert score_text(metrics["survival"], score) == "12.3"
    assert score_text(metrics["jitter"], score) == "0.12"
    assert score_text(metrics["jitter"], None) == "-"


def test_columns_are_aligned():
    assert aligned([["a", "bb"], ["ccc", "d"]], left_columns=1) == "a    bb\nccc   d"
