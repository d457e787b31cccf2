"""What it is all for: optimized on the clip, the tracker beats what it is made from."""

from __future__ import annotations

import numpy as np
import pytest

from dino_tracker_ros.evaluation.baselines import track_chained_flow, track_raw_dino
from dino_tracker_ros.evaluation.metrics import TapVidScores, scored_frames, tap_vid
from dino_tracker_ros.evaluation.synthetic import SyntheticClip, make_clip
from dino_tracker_ros.tracking.settings import preset, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.weights import WeightsCache


def scores(tracks: Tracks, clip: SyntheticClip) -> TapVidScores:
    truth = clip.truth
    scored = scored_frames(truth.queries, len(clip.frames), "strided") & truth.evaluate
    return tap_vid(
        tracks.points, tracks.occluded, truth.points, truth.occluded, scored,
        truth.width, truth.height,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.weights
def test_optimization_beats_raw_matching_and_chained_flow(weights_cache: WeightsCache) -> None:
    pytest.importorskip("skimage", reason="the photographs come in scikit-image's wheel")
    clip = make_clip(width=320, height=240, length=16, seed=1, tracks=60)
    settings = with_values(preset("cpu"), {"device": "cpu", "clip.longest_side": 320})
    tracker = DinoTracker(settings, weights_cache)
    for frame in clip.frames:
        tracker.observe(frame)
    queries = clip.truth.queries
    unfitted = tracker.track(queries)
    assert tracker.fit().stopped == "iterations"
    found = {
        "not optimized": scores(unfitted, clip),
        "optimized": scores(tracker.track(queries), clip),
        "raw DINOv2": scores(track_raw_dino(clip.frames, queries, settings), clip),
        "chained flow": scores(track_chained_flow(clip.frames, queries, settings), clip),
    }
    told = {name: round(100 * score.delta_average, 1) for name, score in found.items()}
    assert np.isfinite([score.delta_average for score in found.values()]).all()
    assert told["optimized"] > told["not optimized"], told
    assert told["optimized"] > told["raw DINOv2"], told
    assert told["optimized"] > told["chained flow"], told
