"""Scores of tracks on a clip with known ones, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dino_tracker_ros.evaluation.ground_truth import GroundTruth
from dino_tracker_ros.evaluation.metrics import (
    Mode,
    delta_pixels,
    pck,
    scored_frames,
    tap_vid,
)
from dino_tracker_ros.tracking.tracks import Tracks


@dataclass(frozen=True)
class Scores:
    """Shares in 0..1; None where the clip's labels do not allow the score.

    Attributes:
        pck: joints within 0.2·√(mask area); needs masks.
        delta_3px: points within 3 px at 854 x 480; for clips without occlusion labels.
        delta_average: TAP-Vid's δ_avg.
        occlusion_accuracy: TAP-Vid's OA; needs occlusion labels.
        average_jaccard: TAP-Vid's AJ; needs occlusion labels.
    """

    pck: float | None
    delta_3px: float | None
    delta_average: float
    occlusion_accuracy: float | None
    average_jaccard: float | None


@dataclass(frozen=True)
class Row:
    """One line of the table: how one method did on one clip, and the seconds it took."""

    clip: str
    method: str
    scores: Scores
    seconds: float


def score(tracks: Tracks, truth: GroundTruth, mode: Mode = "strided") -> Scores:
    """Scores tracks of the clip's own queries; a query's own frame never counts."""
    scored = truth.evaluate & scored_frames(truth.queries, truth.points.shape[1], mode)
    visible = scored & ~truth.occluded
    general = tap_vid(
        tracks.points,
        tracks.occluded if truth.has_occlusion else None,
        truth.points,
        truth.occluded,
        scored,
        truth.width,
        truth.height,
    )
    labelled_joints = not truth.has_occlusion
    return Scores(
        pck=(
            pck(tracks.points, truth.points, visible, truth.mask_areas)
            if truth.mask_areas is not None
            else None
        ),
        delta_3px=(
            delta_pixels(tracks.points, truth.points, visible, truth.width, truth.height)
            if labelled_joints
            else None
        ),
        delta_average=general.delta_average,
        occlusion_accuracy=general.occlusion_accuracy,
        average_jaccard=general.average_jaccard,
    )


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """One row per method, the mean over its clips of each score that some clip has."""
    methods = list(dict.fromkeys(row.method for row in rows))
    means = []
    for method in methods:
        own = [row for row in rows if row.method == method]
        scores = [row.scores for row in own]
        means.append(
            Row(
                clip="mean",
                method=method,
                scores=Scores(
                    pck=_mean([s.pck for s in scores]),
                    delta_3px=_mean([s.delta_3px for s in scores]),
                    delta_average=float(np.mean([s.delta_average for s in scores])),
                    occlusion_accuracy=_mean([s.occlusion_accuracy for s in scores]),
                    average_jaccard=_mean([s.average_jaccard for s in scores]),
                ),
                seconds=float(np.mean([row.seconds for row in own])),
            )
        )
    return means


def format_table(rows: Sequence[Row]) -> str:
    """The rows in aligned columns, shares in percent; a dash where there is no score."""
    head = ["clip", "method", "PCK", "δ_3px", "δ_avg", "OA", "AJ", "seconds"]
    lines = [
        [
            row.clip,
            row.method,
            percent(row.scores.pck),
            percent(row.scores.delta_3px),
            percent(row.scores.delta_average),
            percent(row.scores.occlusion_accuracy),
            percent(row.scores.average_jaccard),
            f"{row.seconds:.1f}",
        ]
        for row in rows
    ]
    return aligned([head, *lines], left_columns=2)


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


def percent(share: float | None) -> str:
    """A share as percent with one decimal, a dash where there is none."""
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
