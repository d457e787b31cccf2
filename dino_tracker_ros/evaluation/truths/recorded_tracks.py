"""Tracks as a tracker gives them, as known ones: of a clip that was made a bag, or of another run,
to compare two runs, versions or presets."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.bags.message_types import TRACK_ARRAY
from dino_tracker_ros.evaluation.bags.reader import BagReader
from dino_tracker_ros.evaluation.bags.tracks import read_track_bag
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth, GroundTruthError, checked
from dino_tracker_ros.tracking.tracks import Tracks

TRUTH_TOPIC = "/ground_truth/tracks"
"""Where a bag made of a labelled clip has its known tracks."""

_log = logging.getLogger(__name__)


def load_truth_bag(
    path: Path, stamps: NDArray[np.int64], width: int, height: int
) -> GroundTruth:
    """The tracks on TRUTH_TOPIC, or else on the only topic of TrackArray that a bag has.

    Args:
        path: of a ROS 1 or ROS 2 bag.
        stamps, width, height: of the frames; see `truth_of_tracks`.

    Raises:
        BagError: the bag cannot be read or has no tracks.
        GroundTruthError: they do not fit the frames.
    """
    with BagReader(path) as reader:
        topics = [each.name for each in reader.topics if each.type == TRACK_ARRAY]
    tracks, _ = read_track_bag(path, TRUTH_TOPIC if TRUTH_TOPIC in topics else "")
    return truth_of_tracks(tracks, stamps, width, height, path)


def truth_of_tracks(
    tracks: Tracks, stamps: NDArray[np.int64], width: int, height: int, source: object
) -> GroundTruth:
    """What a run said about the same frames; it is believed wherever it said something.

    Frames that the run did not get are not scored, and tracks that it was asked for in such a
    frame are left out; a warning counts both.

    Args:
        tracks: of the other run.
        stamps: int64 [T], ns, of the frames, sorted; matched exactly.
        width, height: of the frames, px.
        source: where the tracks come from, for messages.

    Raises:
        GroundTruthError: another image size, or no stamp or track in common.
    """
    if (tracks.width, tracks.height) != (width, height):
        raise GroundTruthError(
            f"tracks in '{source}' are for images of {tracks.width}x{tracks.height} px, but the "
            f"frames have {width}x{height}"
        )
    common, ours, theirs = np.intersect1d(stamps, tracks.stamps, return_indices=True)
    if not len(common):
        raise GroundTruthError(
            f"none of the {len(tracks.stamps)} stamps in '{source}' is one of the "
            f"{len(stamps)} frames': are both of one recording?"
        )
    frame_of = np.full(len(tracks.stamps), -1)
    frame_of[theirs] = ours
    times = frame_of[np.rint(tracks.queries[:, 0]).astype(int)]
    asked = times >= 0
    if len(common) < len(stamps) or not asked.all():
        _log.warning(
            "'%s' has tracks for %d of %d frames; %d of its %d tracks start in another frame "
            "and are left out",
            source, len(common), len(stamps), np.sum(~asked), len(asked),
        )  # fmt: skip
    shape = (int(asked.sum()), len(stamps))
    points = np.full((*shape, 2), np.nan, np.float32)
    occluded = np.ones(shape, bool)
    points[:, ours] = tracks.points[asked][:, theirs]
    occluded[:, ours] = tracks.occluded[asked][:, theirs]
    known = np.asarray(np.isfinite(points).all(axis=-1))
    truth = GroundTruth(
        queries=np.column_stack([times[asked], tracks.queries[asked, 1:]]).astype(np.float32),
        points=points,
        occluded=occluded,
        evaluate=known,
        # A bag made of a clip with labelled positions alone says "occluded" only where it knows no
        # position; a run over more than a few frames says it somewhere.
        has_occlusion=bool((known & occluded).any()),
        width=width,
        height=height,
    )
    return checked(truth, len(stamps), source)
