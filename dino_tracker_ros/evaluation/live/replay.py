"""Replay: a clip played to the node over DDS, its tracks recorded as a bag, and how it kept up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.bags.message_types import TRACK_ARRAY
from dino_tracker_ros.evaluation.bags.tracks import read_track_bag
from dino_tracker_ros.evaluation.bags.writer import check_new_bag, new_bag
from dino_tracker_ros.evaluation.live.processes import LiveError
from dino_tracker_ros.evaluation.live.session import (
    LiveResult,
    Progress,
    evaluation_parameters,
    parameter_texts,
    run_live,
)
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks

TOPIC = "/tracks"


@dataclass(frozen=True)
class LiveRun:
    """What one replay gave.

    Attributes:
        tracks: all that the node tracked, read from the recorded bag; over the stamps that it got.
        ids: uint32 [N].
        measures: of this run; see `measures_of`.
        stages: seconds of the node in each stage, by name.
        seconds: from the first image to the last tracks.
    """

    tracks: Tracks
    ids: NDArray[np.uint32]
    measures: Mapping[str, float]
    stages: Mapping[str, float]
    seconds: float


def replay_clip(
    frames: Sequence[Frame],
    queries: NDArray[np.float32],
    settings_values: Mapping[str, str],
    preset: str,
    rate: float,
    record: Path,
    log: Path,
    progress: Progress,
    params_file: Path | None = None,
) -> LiveRun:
    """Plays a clip to a node of its own, with the recorded stamps, and records /tracks.

    Args:
        frames: T frames, stamps increasing.
        queries: float32 [N, 3], (t, x, y), sent to the node beforehand.
        settings_values: settings of the tracker or the node that differ, as text, by name.
        preset: one of PRESETS, or "auto".
        rate: how much faster than recorded; infinity does not wait between frames.
        record: bag for the tracks, replaced where it exists; it appears whole or not at all.
        log: file for what the node prints.
        progress: told about every stage.
        params_file: the node's parameters in ROS's YAML, as a robot has them; None loses no image
            and tracks no points but the queries.

    Raises:
        SettingError: a setting that does not exist, or a value it does not allow.
        LiveError: ROS is not there, the node failed, or it tracked nothing.
        PlayerError, OutputError, BagError: the frames cannot be played or the bag not be written.
    """
    parameters = {"preset": preset}
    if params_file is None:
        params_file = evaluation_parameters()
        parameters["clip.flush_after"] = "0.0"  # the last clip is asked for, no other may be short
    parameters.update(parameter_texts(settings_values))
    check_new_bag(record, overwrite=True)
    result = run_live(frames, queries, rate, params_file, parameters, log, progress)
    if not result.clips:
        said = result.diagnostics.get("last_error") or f"no error either; its log: {log}"
        raise LiveError(f"the node published no tracks: {said}")
    with new_bag(record, overwrite=True) as bag:
        for received, data in result.recorded:
            bag.write_serialized(TOPIC, TRACK_ARRAY, received, data)
    tracks, ids = read_track_bag(record, TOPIC)
    stages = {
        name.partition(".")[2]: float(value)
        for name, value in result.diagnostics.items()
        if name.startswith("seconds.")
    }
    return LiveRun(tracks, ids, measures_of(result), stages, result.seconds)


def measures_of(result: LiveResult) -> dict[str, float]:
    """What only a live run has.

    Returns:
        latency_median, latency_95: s from an image's publication to the first tracks that hold it;
        lag: s from the last image to the last tracks, which is how far the node was behind;
        frames_published, frames_tracked;
        frames_lost: never reached the node; frames_dropped: it dropped, and among them
        dropped.REASON for every reason that occurred.
    """
    received, processed, dropped = (
        float(result.diagnostics[name])
        for name in ("frames_received", "frames_processed", "frames_dropped")
    )
    median, high = np.percentile(result.latencies, [50, 95])
    reasons = {
        name: float(value)
        for name, value in result.diagnostics.items()
        if name.startswith("dropped.") and float(value)
    }
    return {
        "latency_median": float(median),
        "latency_95": float(high),
        "lag": result.lag,
        "frames_published": float(result.published),
        "frames_tracked": processed,
        "frames_lost": result.published - received,
        "frames_dropped": dropped,
        **reasons,
    }
