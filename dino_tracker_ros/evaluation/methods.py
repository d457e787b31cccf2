"""The methods of a plan on one clip: the tracker, its replay, recorded tracks, the baselines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation import baselines
from dino_tracker_ros.evaluation.assembly import tracks_of_queries
from dino_tracker_ros.evaluation.bags.message_types import TRACK_ARRAY
from dino_tracker_ros.evaluation.bags.reader import BagReader
from dino_tracker_ros.evaluation.bags.tracks import read_track_bag
from dino_tracker_ros.evaluation.live.replay import replay_clip
from dino_tracker_ros.evaluation.offline import ClipTracker, Progress, track_frames
from dino_tracker_ros.evaluation.plan import Plan, values_of
from dino_tracker_ros.evaluation.report.results import result_folder
from dino_tracker_ros.evaluation.tracks_file import load_tracks
from dino_tracker_ros.evaluation.truths.ground_truth import LabelledClip
from dino_tracker_ros.evaluation.truths.recorded_tracks import TRUTH_TOPIC
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.settings import Settings, preset, with_values
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.output import make_folder

FLOW_NAMES = {"dis": "DIS", "raft_large": "RAFT", "raft_small": "RAFT small"}


class TimedTracker(ClipTracker, Protocol):
    """What is used of DinoTracker."""

    @property
    def stage_seconds(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class MethodOutput:
    """What a method gives; see MethodResult."""

    tracks: Tracks
    seconds: float
    stages: Mapping[str, float]
    live: Mapping[str, float]


def methods_of(
    clip: LabelledClip, plan: Plan, make_tracker: Callable[[Settings], TimedTracker]
) -> list[tuple[str, Callable[[Progress], MethodOutput]]]:
    """Names of a plan's methods, the tracker's own first, and what runs each on a clip.

    Running one raises TrackerError for whatever goes wrong.
    """
    methods: list[tuple[str, Callable[[Progress], MethodOutput]]] = []
    if plan.tracks is not None:
        methods.append(("recorded tracks", partial(_recorded, clip, plan.tracks)))
    else:
        for seed in plan.seeds or (plan.settings.optimizer.seed,):
            name = f"DINO-Tracker, seed {seed}" if plan.seeds else "DINO-Tracker"
            seeded = with_values(plan.settings, {"optimizer.seed": seed})
            methods.append((name, partial(_offline, clip, seeded, make_tracker)))
        if plan.rate is not None:
            methods.append(("DINO-Tracker, replayed", partial(_replayed, clip, plan)))
    if not plan.flows:
        return methods
    frames, queries, settings = clip.frames, clip.truth.queries, plan.settings

    def baseline(name: str, method: Callable[[baselines.Progress], Tracks]) -> None:
        def run(progress: Progress) -> MethodOutput:
            started = time.monotonic()
            tracks = method(lambda done, total: progress("frames", done, total))
            return MethodOutput(tracks, time.monotonic() - started, {}, {})

        methods.append((name, run))

    baseline("no motion", lambda _: baselines.track_static(frames, queries))
    baseline("Lucas-Kanade", lambda _: baselines.track_lucas_kanade(frames, queries))
    for flow in plan.flows:
        baseline(
            f"chained {FLOW_NAMES[flow]}",
            partial(baselines.track_chained_flow, frames, queries, settings, method=flow),
        )
    for block in filter(None, (settings.backbone.block, settings.backbone.placing_block)):
        baseline(
            f"raw DINOv2, block {block}",
            partial(baselines.track_raw_dino, frames, queries, settings, block=block),
        )
    return methods


def _offline(
    clip: LabelledClip,
    settings: Settings,
    make_tracker: Callable[[Settings], TimedTracker],
    progress: Progress,
) -> MethodOutput:
    tracker = make_tracker(settings)
    started = time.monotonic()
    tracks = track_frames(clip.frames, clip.truth.queries, settings, progress, tracker)
    return MethodOutput(tracks, time.monotonic() - started, tracker.stage_seconds, {})


def _replayed(clip: LabelledClip, plan: Plan, progress: Progress) -> MethodOutput:
    assert plan.rate is not None
    assert plan.folder is not None
    base = values_of(preset(plan.preset))
    changed = {
        name: str(value) for name, value in values_of(plan.settings).items() if value != base[name]
    }
    folder = plan.folder / "replays" / result_folder(plan.folder, clip.name).name
    make_folder(folder)
    run = replay_clip(
        clip.frames, clip.truth.queries, changed, plan.preset, plan.rate, folder / "tracks",
        folder / "node.log", progress, plan.params_file,
    )  # fmt: skip
    tracks, _ = tracks_of_queries(run.tracks, clip.truth.queries, _stamps(clip))
    return MethodOutput(tracks, run.seconds, run.stages, run.measures)


def _recorded(clip: LabelledClip, path: Path, progress: Progress) -> MethodOutput:
    tracks = load_tracks(path) if path.suffix == ".npz" else _tracks_in_bag(path)
    stamps = _stamps(clip)
    strange = ~np.isin(tracks.stamps, stamps)
    if strange.any():
        raise TrackerError(
            f"{strange.sum()} of {len(strange)} stamps in '{path}' are not of the frames in "
            f"'{clip.name}': give the tracks of this very recording"
        )
    tracks, found = tracks_of_queries(tracks, clip.truth.queries, stamps)
    if not found.any():
        raise TrackerError(
            f"no track in '{path}' was asked for where a known one of '{clip.name}' is: ask for "
            f"the {len(found)} known points"
        )
    return MethodOutput(tracks, 0.0, {}, {"tracks_missing": float((~found).sum())})


def _tracks_in_bag(path: Path) -> Tracks:
    """What a node published; known tracks that were played to it may have been recorded too."""
    with BagReader(path) as reader:
        topics = [topic.name for topic in reader.topics if topic.type == TRACK_ARRAY]
    published = [topic for topic in topics if topic != TRUTH_TOPIC]
    return read_track_bag(path, published[0] if len(published) == 1 else "")[0]


def _stamps(clip: LabelledClip) -> NDArray[np.int64]:
    return np.array([frame.stamp for frame in clip.frames], np.int64)
