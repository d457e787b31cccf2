"""Fifty clips through one tracker: memory stays flat, and nothing is written to disk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import grid_queries, made_clip
from benchmarks.machine import Memory, current_memory, written_bytes
from benchmarks.measures import slope
from benchmarks.messages import say
from benchmarks.options import Options
from benchmarks.output import Result, Table
from dino_tracker_ros.evaluation.report.charts import Axis, Series, count_axis, line_chart
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.settings import with_values
from dino_tracker_ros.tracking.tracker import DinoTracker

CLIPS, QUICK_CLIPS = 50, 15
SETTLING = 10  # clips before memory is expected to be flat
_SIZE = (160, 128)  # px: what leaks does so at any size
_LENGTH, _OVERLAP = 8, 3  # frames
_STEP = _LENGTH - _OVERLAP
_SHORT = {
    "clip.length": _LENGTH,
    "clip.overlap": _OVERLAP,
    "optimizer.iterations": 4,
    "optimizer.warm_iterations": 2,
}


def benchmark(options: Options) -> Result:
    """Once with a reset before each clip, once sliding on as the node does."""
    count = QUICK_CLIPS if options.quick else CLIPS
    frames = made_clip(*_SIZE, _OVERLAP + count * _STEP).frames
    queries = grid_queries(*_SIZE, 64)
    memory: dict[str, list[Memory]] = {}
    written: dict[str, dict[str, int]] = {}
    ways = {"reset": _from_nothing, "sliding": _sliding}
    for name, way in ways.items():
        tracker = DinoTracker(with_values(options.settings, _SHORT))
        before = written_bytes()
        memory[name] = []
        for index in range(count):
            way(tracker, frames, index * _STEP, queries)
            memory[name].append(current_memory(tracker.device))
        after = written_bytes()
        written[name] = {key: after[key] - before[key] for key in before}
        say(f"{count} clips, {name}")
    return _result(count, memory, written)


def _from_nothing(
    tracker: DinoTracker, frames: list[Frame], start: int, queries: NDArray[np.float32]
) -> None:
    tracker.reset()
    for frame in frames[start : start + _LENGTH]:
        tracker.observe(frame)
    tracker.fit()
    tracker.track(queries)


def _sliding(
    tracker: DinoTracker, frames: list[Frame], start: int, queries: NDArray[np.float32]
) -> None:
    """Half of the points are asked for on the newest of as many keyframes as may be kept."""
    known = 0
    if start:
        kept = [*tracker.keyframes, frames[start - _STEP].stamp]
        tracker.forget(_STEP, kept[max(0, len(kept) - tracker.settings.clip.keyframes) :])
        known = _OVERLAP
    for frame in frames[start + known : start + _LENGTH]:
        tracker.observe(frame)
    tracker.fit()
    asked = queries.copy()
    if tracker.keyframes:
        asked[::2, 0] = -1
    tracker.track(asked)


def _result(
    count: int, memory: dict[str, list[Memory]], written: dict[str, dict[str, int]]
) -> Result:
    kinds: dict[str, Callable[[Memory], float]] = {
        "main memory": lambda each: each.host,
        "GPU tensors": lambda each: each.device,
        "GPU reserved": lambda each: each.reserved,
    }
    lines = [["memory", "first, MB", f"after {SETTLING}, MB", "last, MB", "MB per clip", "written"]]
    series: list[Series] = []
    slopes: dict[str, float] = {}
    for name, found in memory.items():
        for kind, of in kinds.items():
            values = [of(each) for each in found]
            if not any(values):
                continue
            label = f"{name}: {kind}"
            slopes[label] = slope(values[SETTLING:])
            told = [f"{values[at]:.1f}" for at in (0, SETTLING - 1, -1)]
            bytes_written = written[name]["write_bytes"]
            lines.append([label, *told, f"{slopes[label]:+.3f}", f"{bytes_written} bytes"])
            points = [(float(clip + 1), value) for clip, value in enumerate(values)]
            series.append(Series(label, len(series), points))
    notes = [
        f"MB per clip: slope of clips {SETTLING + 1} to {count}. 'written' is the growth of "
        "write_bytes in /proc/self/io from the first frame to the last tracks, which counts what "
        "the process causes to be sent to a disk; handed to write calls of any kind: "
        + ", ".join(f"{each['wchar']} bytes ({name})" for name, each in written.items())
    ]
    title = f"Memory after each of {count} clips of {_LENGTH} frames of {_SIZE[0]}x{_SIZE[1]}"
    x = Axis("clip", 1, count, [(1, "1"), (count, str(count))])
    y = count_axis("MB", max(value for line in series for _, value in line.points))
    chart = line_chart(title, series, x, y, marked=False)
    numbers = {"megabytes_per_clip": slopes, "written_bytes": written, "megabytes": memory}
    return Result([Table(title, lines, notes)], numbers, [(title, chart)])
