"""Known tracks as CSV: one line for each labelled point in each labelled frame.

The first line names the columns, in any order; others than these are not looked at:

    track     any name of the point
    t         frame, from 0; or instead
    stamp     of the frame's header, nanoseconds
    x, y      pixels, centres at integers; may be empty where occluded
    occluded  0 or 1; without this column every point is visible and only positions are scored

Frames of a track without a line are not scored. A track is asked for where it is first visible.
"""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.truths.ground_truth import (
    GroundTruth,
    GroundTruthError,
    check_labels_in_picture,
    checked,
)
from dino_tracker_ros.evaluation.truths.query_sampling import queries_at, sample_queries

_FLAGS = {"0": False, "1": True, "false": False, "true": True}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Line:
    track: str
    time: int  # frame or stamp
    x: float
    y: float
    occluded: bool


def load_truth_csv(
    file: Path, stamps: NDArray[np.int64], width: int, height: int
) -> GroundTruth:
    """The tracks of a CSV file, for pictures of width x height px.

    Lines whose stamp no frame has are left out, and a warning counts them.

    Args:
        file: see the module.
        stamps: int64 [T], ns, of the frames.
        width, height: of the frames, px.

    Raises:
        GroundTruthError: a column is missing, a line cannot be read or is there twice, or the
            tracks do not fit the frames.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            time = "stamp" if "stamp" in columns and "t" not in columns else "t"
            missing = [name for name in ("track", time, "x", "y") if name not in columns]
            if missing:
                raise GroundTruthError(
                    f"'{file}' has no column {', '.join(missing)}: its first line names the "
                    "columns track, t (or stamp), x, y and, if known, occluded"
                )
            lines = [_line(row, time, f"line {reader.line_num} of '{file}'") for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise GroundTruthError(f"'{file}' cannot be read as CSV: {error}") from error
    known = range(len(stamps)) if time == "t" else stamps.tolist()
    frames = {each: index for index, each in enumerate(known)}
    truth = _truth(file, lines, frames, time, "occluded" in columns, width, height)
    truth = checked(truth, len(stamps), file)
    check_labels_in_picture(truth, file)
    return truth


def _line(row: dict[str, str | None], time: str, source: str) -> _Line:
    try:
        occluded = _FLAGS[(row.get("occluded", "0") or "").strip().lower()]
        x, y = (
            float("nan") if occluded and not (row[name] or "").strip() else float(row[name] or "")
            for name in ("x", "y")
        )
        return _Line((row["track"] or "").strip(), int(row[time] or ""), x, y, occluded)
    except (ValueError, KeyError) as error:
        values = {name: row.get(name) for name in ("track", time, "x", "y", "occluded")}
        raise GroundTruthError(
            f"{source} cannot be read: {values}; {time} is an integer, x and y are numbers, "
            "occluded is 0 or 1"
        ) from error


def _truth(
    file: Path,
    lines: list[_Line],
    frames: dict[int, int],
    time: str,
    has_occlusion: bool,
    width: int,
    height: int,
) -> GroundTruth:
    unknown = [line for line in lines if line.time not in frames]
    if unknown and (time == "t" or len(unknown) == len(lines)):
        raise GroundTruthError(
            f"'{file}' has a point at {time} {unknown[0].time}, which is none of the "
            f"{len(frames)} frames"
        )
    if unknown:
        _log.warning("%d of %d lines of '%s' are of no frame", len(unknown), len(lines), file)
    rows = {name: row for row, name in enumerate(dict.fromkeys(line.track for line in lines))}
    points = np.full((len(rows), len(frames), 2), np.nan, np.float32)
    labelled = np.zeros(points.shape[:2], bool)
    occluded = np.ones(points.shape[:2], bool)
    for line in lines:
        if line.time not in frames:
            continue
        place = rows[line.track], frames[line.time]
        if labelled[place]:
            raise GroundTruthError(
                f"'{file}' has track {line.track} twice at {time} {line.time}: leave one line"
            )
        labelled[place], occluded[place], points[place] = True, line.occluded, (line.x, line.y)
    times, tracks = sample_queries(labelled & ~occluded, "first")
    return GroundTruth(
        queries=queries_at(points[tracks], times),
        points=points[tracks],
        occluded=occluded[tracks],
        evaluate=labelled[tracks],
        has_occlusion=has_occlusion,
        width=width,
        height=height,
    )
