"""Where the time goes: each stage, the whole, its memory, and how near that is to the machine's
ceilings; on request beside the paper's pipeline."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.clips import SHOWN, Clip, grid_queries, mean_accuracy
from benchmarks.machine import Ceilings, Memory, measured_ceilings
from benchmarks.measures import Spread, spread
from benchmarks.messages import say
from benchmarks.options import Options
from benchmarks.output import Result, Table, number, seconds_text
from benchmarks.paper import Piece, paper_seconds, paper_settings, paper_table, time_paper
from benchmarks.runs import STAGES, WHOLE, Run, run, warm_up
from benchmarks.work import ORIN, Work, count_work, estimated_seconds, fractions
from dino_tracker_ros.evaluation.report.charts import bar_chart, count_axis
from dino_tracker_ros.tracking.device import find_precision
from dino_tracker_ros.tracking.memory import release_memory
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.tracker import DinoTracker


def benchmark(options: Options) -> Result:
    """Warms up, measures, then counts the work; the baseline comes between two halves."""
    clip = options.clip()
    queries = grid_queries(*clip.size, options.points)
    tracker = DinoTracker(options.settings)
    warm_up(tracker, clip.frames, queries)

    first_half = -(-options.repeats // 2) if options.baseline else options.repeats
    runs = _runs(tracker, clip, queries, first_half)
    peak = max((each.peak for each in runs), key=lambda memory: (memory.device, memory.host))
    pieces: list[Piece] = []
    if options.baseline:
        pieces = time_paper(options, clip.frames, queries)
        release_memory()
        runs += _runs(tracker, clip, queries, options.repeats - first_half)
    seconds = {name: spread([each.seconds[name] for each in runs]) for name in (*STAGES, WHOLE)}
    # Counting takes long: who stops it has at least these.
    say(", ".join(f"{name} {number(taken.median)} s" for name, taken in seconds.items()))
    say("the work of each stage, and the machine's ceilings")
    tracker.reset()
    work = count_work(options.settings, clip, queries)
    release_memory()
    precision = find_precision(options.settings.precision, tracker.device)
    ceilings = measured_ceilings(tracker.device, precision)

    scores = mean_accuracy([each.scores for each in runs])
    estimates = _estimates(work, seconds, ceilings, options.settings)
    tables = [_table(clip, options, seconds, work, ceilings, estimates)]
    tables.append(_facts(runs, peak, scores))
    numbers = {
        "clip": clip.name,
        "points": options.points,
        "seconds": seconds,
        "before_megabytes": runs[0].before,
        "peak_megabytes": peak,
        "iterations": runs[0].fit.iterations,
        "work": work,
        "ceilings": ceilings,
        "orin_estimate_seconds": estimates,
        "scores": scores,
    }
    rows = [(stage, [seconds[stage].median]) for stage in STAGES]
    axis = count_axis("seconds", max(seconds[stage].median for stage in STAGES))
    title = f"Seconds of each stage, {number(seconds[WHOLE].median)} in all"
    if pieces:
        tables.append(paper_table(paper_settings(options), pieces, seconds[WHOLE].median))
        whole = paper_seconds(pieces)
        ratio = whole / seconds[WHOLE].median
        numbers["paper"] = {"pieces": pieces, "seconds": whole, "ratio": ratio}
    return Result(tables, numbers, [(title, bar_chart(title, ["median"], rows, axis))])


def _runs(tracker: DinoTracker, clip: Clip, queries: NDArray[np.float32], count: int) -> list[Run]:
    runs = []
    for _ in range(count):
        runs.append(run(tracker, clip, queries))
        say(f"frames to tracks in {number(runs[-1].seconds[WHOLE])} s")
    return runs


def _estimates(
    work: dict[str, Work], seconds: dict[str, Spread], here: Ceilings, settings: Settings
) -> dict[str, tuple[float, float]]:
    """Seconds on a Jetson AGX Orin, of the stages whose work PyTorch does, and of their sum."""
    counted = [name for name in work if name != "flow" or settings.flow.method != "dis"]
    each = {
        name: estimated_seconds(work[name], seconds[name].median, here, ORIN) for name in counted
    }
    each[WHOLE] = (sum(low for low, _ in each.values()), sum(high for _, high in each.values()))
    return each


def _table(
    clip: Clip,
    options: Options,
    seconds: dict[str, Spread],
    work: dict[str, Work],
    ceilings: Ceilings,
    estimates: dict[str, tuple[float, float]],
) -> Table:
    lines = [
        ["stage", "seconds", "share", "GFLOP", "of ceiling", "GB moved", "of ceiling", "Orin, s"]
    ]
    for name, taken in seconds.items():
        cells = ["", "", "", ""]
        if name in work:
            of_flops, of_bytes = fractions(work[name], taken.median, ceilings)
            cells = [
                number(work[name].flops / 1e9), f"{100 * of_flops:.1f} %",
                number(work[name].bytes / 1e9), f"{100 * of_bytes:.1f} %",
            ]  # fmt: skip
        share = f"{100 * taken.median / seconds[WHOLE].median:.0f} %"
        guess = "–".join(number(end) for end in estimates[name]) if name in estimates else ""
        lines.append([name, seconds_text(taken), share, *cells, guess])
    return Table(
        f"{clip.name}, to {options.points} tracks: median of {options.repeats} (min–max)",
        lines,
        [
            f"ceilings measured here: {number(ceilings.flops / 1e12)} TFLOP/s in a matrix product, "
            f"{number(ceilings.bytes / 1e9)} GB/s in a copy",
            "FLOPs of products, convolutions and attention; bytes as if nothing stayed in a cache, "
            "so that stages which reuse a cache pass 100 %; OpenCV's work is not seen",
            f"Orin: an ESTIMATE, nothing ran there. Jetson AGX Orin 64 GB by NVIDIA's figures, "
            f"{ORIN.flops / 1e12:g} TFLOP/s (dense, half precision) and {ORIN.bytes / 1e9:g} GB/s: "
            "at these ceilings, and at the share of them that is reached here; flow by OpenCV's "
            "DIS, which would run on its processor, is left out",
        ],
    )


def _facts(runs: list[Run], peak: Memory, scores: dict[str, float]) -> Table:
    before = runs[0].before
    lines = [["the run", ""]]
    lines.append(["iterations", f"{runs[0].fit.iterations} (ended by: {runs[0].fit.stopped})"])
    lines.append(["main memory, peak MB", f"{peak.host:.0f}, {before.host:.0f} before the clip"])
    if peak.device:
        told = f"{peak.device:.0f} in tensors, {peak.reserved:.0f} reserved by PyTorch"
        lines.append(["GPU memory, peak MB", told])
    lines += [[SHOWN[name], f"{value:.1f} %"] for name, value in scores.items()]
    return Table("", lines)
