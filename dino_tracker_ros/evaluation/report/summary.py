"""The numbers of an evaluation, computed once from its results, and as JSON and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dino_tracker_ros.evaluation.report.json_text import json_text, record
from dino_tracker_ros.evaluation.report.results import ClipResult, Failure, MethodResult
from dino_tracker_ros.evaluation.scores import (
    CalibrationBin,
    Counts,
    Score,
    calibration,
    scores,
    scores_by_occlusion,
)

FORMAT = 1
"""Of scores.json."""

CSV_COLUMNS = ("clip", "method", "occlusion", "measure", "value", "low", "high", "tracks")
ALL_CLIPS = "all clips"

_SURVIVAL_STEPS = 20


@dataclass(frozen=True)
class Pooled:
    """How one method did on all clips that it has a result on.

    Attributes:
        clips: how many those are.
        scores: means over the clips, by metric.
        by_occlusion: the same of the tracks whose longest occlusion is in a bin.
        calibration: bins of confidence; empty without occlusion labels.
        survival: (share of a track's frames, share of the tracks that have lived that long), the
            mean over the clips; empty without occlusion labels.
        seconds: mean over the clips.
        stages: the same of each stage.
    """

    clips: int
    scores: Mapping[str, Score]
    by_occlusion: Mapping[str, Mapping[str, Score]]
    calibration: Sequence[CalibrationBin]
    survival: Sequence[tuple[float, float]]
    seconds: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Summary:
    """All numbers of an evaluation.

    Attributes:
        clips: the results.
        failures: clips without one.
        methods: names, the tracker's own first.
        scores: by (clip, method), then by metric.
        pooled: by method.
    """

    clips: Sequence[ClipResult]
    failures: Sequence[Failure]
    methods: Sequence[str]
    scores: Mapping[tuple[str, str], Mapping[str, Score]]
    pooled: Mapping[str, Pooled]


def summarize(clips: Sequence[ClipResult], failures: Sequence[Failure]) -> Summary:
    """Scores every method on every clip and on all of them together."""
    by_method: dict[str, list[MethodResult]] = {}
    for clip in clips:
        for method in clip.methods:
            by_method.setdefault(method.name, []).append(method)
    return Summary(
        clips=clips,
        failures=failures,
        methods=tuple(by_method),
        scores={
            (clip.name, method.name): scores([method.counts])
            for clip in clips
            for method in clip.methods
        },
        pooled={name: _pooled(results) for name, results in by_method.items()},
    )


def scores_json(summary: Summary) -> str:
    """All numbers as JSON; what is not a number is null."""
    clips = [
        {
            "name": clip.name,
            "source": clip.source,
            "mode": clip.mode,
            "settings": clip.settings,
            "run": clip.run,
            "methods": [
                {
                    "name": method.name,
                    "seconds": method.seconds,
                    "stages": method.stages,
                    "live": method.live,
                    "scores": summary.scores[clip.name, method.name],
                }
                for method in clip.methods
            ],
        }
        for clip in summary.clips
    ]
    pooled = [{"name": name, **record(values)} for name, values in summary.pooled.items()]
    whole = {"format": FORMAT, "pooled": pooled, "clips": clips, "failures": summary.failures}
    return json_text(whole)


def scores_csv(summary: Summary) -> str:
    """All numbers as CSV: a line for each measure of each method on each clip.

    Columns: CSV_COLUMNS. `occlusion` is a bin of longest occlusions, in frames, or empty for all
    tracks; shares are 0..1. Seconds and live measures have neither interval nor tracks.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for name, pooled in summary.pooled.items():
        writer.writerows(_score_rows(ALL_CLIPS, name, "", pooled.scores))
        for occlusion, found in pooled.by_occlusion.items():
            writer.writerows(_score_rows(ALL_CLIPS, name, occlusion, found))
        times = {"seconds": pooled.seconds, **_stage_names(pooled.stages)}
        writer.writerows(_plain_rows(ALL_CLIPS, name, times))
    for clip in summary.clips:
        for method in clip.methods:
            found = summary.scores[clip.name, method.name]
            writer.writerows(_score_rows(clip.name, method.name, "", found))
            times = {"seconds": method.seconds, **_stage_names(method.stages), **method.live}
            writer.writerows(_plain_rows(clip.name, method.name, times))
    return text.getvalue()


def _pooled(results: Sequence[MethodResult]) -> Pooled:
    counts = [result.counts for result in results]
    stages = dict.fromkeys(stage for result in results for stage in result.stages)
    return Pooled(
        clips=len(results),
        scores=scores(counts),
        by_occlusion=scores_by_occlusion(counts),
        calibration=calibration(counts),
        survival=_survival(counts),
        seconds=float(np.mean([result.seconds for result in results])),
        stages={
            stage: float(np.mean([result.stages.get(stage, 0.0) for result in results]))
            for stage in stages
        },
    )


def _survival(clips: Sequence[Counts]) -> list[tuple[float, float]]:
    lived = [
        clip.survived[clip.frames > 0] / clip.frames[clip.frames > 0]
        for clip in clips
        if clip.survived is not None
    ]
    lived = [shares for shares in lived if len(shares)]
    if not lived:
        return []
    steps = np.linspace(0, 1, _SURVIVAL_STEPS + 1)
    return [
        (float(step), float(np.mean([np.mean(shares >= step) for shares in lived])))
        for step in steps
    ]


def _score_rows(
    clip: str, method: str, occlusion: str, found: Mapping[str, Score]
) -> Iterator[tuple[str | float, ...]]:
    for name, score in found.items():
        yield clip, method, occlusion, name, score.value, score.low, score.high, score.count


def _plain_rows(
    clip: str, method: str, values: Mapping[str, float]
) -> Iterator[tuple[str | float, ...]]:
    for name, value in values.items():
        yield clip, method, "", name, value, "", "", ""


def _stage_names(stages: Mapping[str, float]) -> dict[str, float]:
    return {f"seconds.{name}": value for name, value in stages.items()}
