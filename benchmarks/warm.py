"""Warm start: the clip after an overlapping one, fitted from what is known, against from nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.clips import SHOWN, Clip, accuracy, grid_queries, made_clip, mean_accuracy, part
from benchmarks.machine import now
from benchmarks.measures import Spread, spread
from benchmarks.messages import say
from benchmarks.options import FRAMES, Options
from benchmarks.output import Result, Table, number, seconds_text
from benchmarks.runs import STAGES, WHOLE, stages_since, warm_up
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import ClipError
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker

WARM, COLD, SHORT = "warm", "cold", "cold, as short as warm"


@dataclass(frozen=True)
class _Taken:
    """By the second clip, from its first new frame to its tracks.

    Attributes:
        iterations: of its optimization.
        seconds: of each stage, and of the whole.
        scores: percent; empty without known tracks.
    """

    iterations: int
    seconds: dict[str, float]
    scores: dict[str, float]


def benchmark(options: Options) -> Result:
    """The second clip three ways in turn, with a seed for each repeat."""
    clip, length = _two_clips(options)
    second = part(clip, length - options.settings.clip.overlap, len(clip.frames))
    taken: dict[str, list[_Taken]] = {WARM: [], COLD: [], SHORT: []}
    for seed in range(options.repeats):
        settings = options.seeded(seed)
        short = {"optimizer.iterations": settings.optimizer.warm_iterations}
        taken[WARM].append(_second_clip(settings, second, clip.frames[:length]))
        taken[COLD].append(_second_clip(settings, second, []))
        taken[SHORT].append(_second_clip(with_values(settings, short), second, []))
        say(f"warm start, seed {seed} is done")
    return _result(options, second, taken)


def _two_clips(options: Options) -> tuple[Clip, int]:
    """The frames of two clips that overlap, and how many of them the first one has."""
    overlap = options.settings.clip.overlap
    if options.folder is None:
        clip = made_clip(*options.size, max(2, 2 * (options.frames or FRAMES) - overlap))
    else:
        clip = options.clip()
    length = (len(clip.frames) + overlap) // 2
    if length <= overlap:
        raise ClipError(
            f"{len(clip.frames)} frames hold no two clips that share {overlap}: give more --frames "
            "or a smaller clip.overlap"
        )
    return clip, length


def _second_clip(settings: Settings, second: Clip, first: list[Frame]) -> _Taken:
    """Tracks the second clip after the first one was fitted; with no first clip, from nothing."""
    tracker = DinoTracker(settings)
    queries = grid_queries(*second.size, 16) if second.truth is None else second.truth.queries
    warm_up(tracker, second.frames, grid_queries(*second.size, 16))
    known = 0
    if first:
        for frame in first:
            tracker.observe(frame)
        tracker.fit()
        known = settings.clip.overlap
    earlier, started = tracker.stage_seconds, now(tracker.device)
    tracker.forget(len(first) - known)
    for frame in second.frames[known:]:
        tracker.observe(frame)
    report = tracker.fit()
    tracks = tracker.track(queries)
    seconds = {WHOLE: now(tracker.device) - started, **stages_since(tracker, earlier)}
    scores = {} if second.truth is None else accuracy(tracks, second.truth)
    return _Taken(report.iterations, seconds, scores)


def _result(options: Options, second: Clip, taken: dict[str, list[_Taken]]) -> Result:
    shown = [name for name in SHOWN if name in taken[COLD][0].scores]
    scores = {way: mean_accuracy([each.scores for each in runs]) for way, runs in taken.items()}
    seconds: dict[str, dict[str, Spread]] = {
        way: {
            name: spread([each.seconds[name] for each in runs]) for name in (*STAGES, WHOLE)
        }
        for way, runs in taken.items()
    }
    lines = [["second clip", "iterations", "fit, s", "whole, s", *(SHOWN[name] for name in shown)]]
    for way, runs in taken.items():
        cells = [seconds_text(seconds[way]["fit"]), seconds_text(seconds[way][WHOLE])]
        marks = [f"{scores[way][name]:.1f}" for name in shown]
        lines.append([way, str(runs[0].iterations), *cells, *marks])
    ratios = {
        name: seconds[COLD][name].median / seconds[WARM][name].median for name in ("fit", WHOLE)
    }
    lead = {name: scores[WARM][name] - scores[COLD][name] for name in shown}
    gains = ", ".join(f"{SHOWN[name]} {value:+.1f}" for name, value in lead.items())
    note = (
        f"cold takes {number(ratios['fit'])} times as long to fit, and {number(ratios[WHOLE])} "
        f"times from the first new frame to the tracks; warm against cold: {gains or 'not scored'}"
    )
    title = (
        f"Warm start, {second.name}, {options.settings.clip.overlap} shared; "
        f"{options.repeats} seeds, median (min–max), mean scores in %"
    )
    numbers = {"clip": second.name, "runs": taken, "cold_over_warm": ratios, "lead_points": lead}
    return Result([Table(title, lines, [note])], numbers)
