"""How time and memory grow with frames, picture size and tracks."""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context

import torch

from benchmarks.clips import grid_queries, made_clip
from benchmarks.measures import Spread, fitted_exponent, spread
from benchmarks.messages import say
from benchmarks.options import Options
from benchmarks.output import Result, Table, log_axis, number, seconds_text
from benchmarks.runs import STAGES, WHOLE, run, warm_up
from dino_tracker_ros.evaluation.report.charts import Series, line_chart
from dino_tracker_ros.evaluation.report.markup import Markup
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker

MEMORY = "memory"


@dataclass(frozen=True)
class Job:
    """A made clip of 16:9 pictures and a number of points."""

    frames: int
    lines: int
    points: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), px; 480 lines are 854 wide."""
        return 2 * round(self.lines * 8 / 9), self.lines


@dataclass(frozen=True)
class Measured:
    """Seconds of each stage and of the whole, and the peak of memory, MB, above what the process
    with weights and clip took before; of the GPU where that does the work."""

    seconds: dict[str, Spread]
    megabytes: float


@dataclass(frozen=True)
class Curve:
    """What changes, by which values, all else as in `base`."""

    name: str
    unit: str
    field: str
    values: tuple[int, ...]
    base: Job

    def jobs(self) -> list[Job]:
        """One for each value."""
        at = {name: getattr(self.base, name) for name in ("frames", "lines", "points")}
        return [Job(**{**at, self.field: value}) for value in self.values]

    def sizes(self) -> list[float]:
        """What the exponents refer to: for pictures their pixels."""
        if self.field != "lines":
            return [float(value) for value in self.values]
        return [float(job.size[0] * job.size[1]) for job in self.jobs()]


class GrowthError(TrackerError):
    """A measurement did not come to its end."""


CURVES = (
    Curve("frames", "frames", "frames", (12, 24, 48, 96, 200), Job(0, 480, 1024)),
    Curve("size", "pixels", "lines", (240, 360, 480, 720), Job(24, 0, 1024)),
    Curve("tracks", "tracks", "points", (16, 64, 256, 1024, 4096, 16384), Job(24, 480, 0)),
)
QUICK_CURVES = (
    Curve("frames", "frames", "frames", (6, 12, 24), Job(0, 120, 64)),
    Curve("size", "pixels", "lines", (120, 180, 240), Job(6, 0, 64)),
    Curve("tracks", "tracks", "points", (16, 64, 256, 1024), Job(6, 120, 0)),
)


def benchmark(options: Options) -> Result:
    """Measures every point of the curves that are asked for in a process of its own."""
    settings = with_values(options.settings, {"clip.longest_side": 0})
    tables, charts, numbers = [], [], {}
    for curve in QUICK_CURVES if options.quick else CURVES:
        if options.curves and curve.name not in options.curves:
            continue
        found = []
        for job in curve.jobs():
            found.append(measured_apart(settings, job, options.repeats))
            say(f"{job.frames} frames of {job.size[0]}x{job.lines}, {job.points} tracks: "
                f"{number(found[-1].seconds[WHOLE].median)} s")  # fmt: skip
        exponents = curve_exponents(curve, found)
        tables.append(_table(curve, found, exponents))
        charts += _charts(curve, found)
        measured = dict(zip(map(str, curve.values), found))
        numbers[curve.name] = {"measured": measured, "exponents": exponents}
    return Result(tables, numbers, charts)


def measured_apart(settings: Settings, job: Job, repeats: int) -> Measured:
    """What a job takes in a fresh process, whose memory no earlier job has touched.

    Raises:
        GrowthError: the process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, settings, job, repeats, torch.get_num_threads()).result()
        except BrokenProcessPool:
            raise GrowthError(
                f"the process for {job} died: it was probably out of memory; --quick asks for less"
            ) from None


def curve_exponents(curve: Curve, found: list[Measured]) -> dict[str, tuple[float, float]]:
    """For each stage, the whole and memory: the exponent fitted to all points, and between the
    last two, which tells better where growth is going."""
    values = {name: [each.seconds[name].median for each in found] for name in (*STAGES, WHOLE)}
    values[MEMORY] = [each.megabytes for each in found]
    sizes = curve.sizes()
    return {
        name: (fitted_exponent(sizes, each), fitted_exponent(sizes[-2:], each[-2:]))
        for name, each in values.items()
    }


def _measure(settings: Settings, job: Job, repeats: int, threads: int) -> Measured:
    torch.set_num_threads(threads)
    clip = made_clip(*job.size, job.frames)
    queries = grid_queries(*clip.size, job.points)
    tracker = DinoTracker(settings)
    warm_up(tracker, clip.frames, queries[:16])
    runs = [run(tracker, clip, queries) for _ in range(repeats)]
    gpu = tracker.device.type == "cuda"
    first = runs[0]
    grown = first.peak.device - first.before.device if gpu else first.peak.host - first.before.host
    seconds = {name: spread([each.seconds[name] for each in runs]) for name in (*STAGES, WHOLE)}
    return Measured(seconds, grown)


def _table(
    curve: Curve, found: list[Measured], exponents: dict[str, tuple[float, float]]
) -> Table:
    base = curve.base
    fixed = {
        "frames": f"{base.lines} lines, {base.points} tracks",
        "lines": f"{base.frames} frames, {base.points} tracks",
        "points": f"{base.frames} frames of {base.lines} lines",
    }[curve.field]
    lines = [[curve.unit if curve.field != "lines" else "lines", *STAGES, WHOLE, "MB"]]
    for value, each in zip(curve.values, found):
        cells = [number(each.seconds[name].median) for name in STAGES]
        whole = seconds_text(each.seconds[WHOLE])
        lines.append([str(value), *cells, whole, number(each.megabytes)])
    for label, which in (("exponent", 0), ("of the last two", 1)):
        powers = [_power_text(exponents[name][which]) for name in (*STAGES, WHOLE, MEMORY)]
        lines.append([label, *powers])
    return Table(
        f"Growth with {curve.name} ({fixed}): seconds, peak MB above weights and clip",
        lines,
        [f"exponents: of seconds and MB in {curve.unit}, by least squares of the logarithms"],
    )


def _power_text(exponent: float) -> str:
    return f"{round(exponent, 2) + 0.0:.2f}" if math.isfinite(exponent) else "-"


def _charts(curve: Curve, found: list[Measured]) -> list[tuple[str, Markup]]:
    sizes = curve.sizes()
    series = [
        Series(name, index, _logarithms(sizes, [each.seconds[name].median for each in found]))
        for index, name in enumerate((WHOLE, *STAGES))
    ]
    times = [each.seconds[name].median for each in found for name in (WHOLE, *STAGES)]
    end = "p" if curve.field == "lines" else ""
    x = log_axis(curve.name, sizes, [(at, f"{v}{end}") for at, v in zip(sizes, curve.values)])
    title = f"Seconds by {curve.name}"
    charts = [(title, line_chart(title, series, x, log_axis("s", _positive(times))))]
    memory = [each.megabytes for each in found]
    if any(value > 0 for value in memory):
        title = f"Peak memory by {curve.name}"
        line = Series("MB above the start", 0, _logarithms(sizes, memory))
        charts.append((title, line_chart(title, [line], x, log_axis("MB", _positive(memory)))))
    return charts


def _logarithms(x: list[float], y: list[float]) -> list[tuple[float, float]]:
    return [(math.log10(a), math.log10(b)) for a, b in zip(x, y) if b > 0]


def _positive(values: list[float]) -> list[float]:
    return [value for value in values if value > 0]
