"""What it is all for: optimized on the clip, the tracker beats what it is made from."""

from __future__ import annotations

import numpy as np
import pytest

from dino_tracker_ros.evaluation.baselines import track_chained_flow, track_raw_dino
from dino_tracker_ros.evaluation.scores import count, scores
from dino_tracker_ros.evaluation.synthetic import SyntheticClip, make_clip
from dino_tracker_ros.tracking.settings import preset, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.weights import WeightsCache


def delta_average(tracks: Tracks, clip: SyntheticClip) -> float:
    return scores([count(tracks, clip.truth)])["delta_average"].value


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
        "not optimized": delta_average(unfitted, clip),
        "optimized": delta_average(tracker.track(queries), clip),
        "raw DINOv2": delta_average(track_raw_dino(clip.frames, queries, settings), clip),
        "chained flow": delta_average(track_chained_flow(clip.frames, queries, settings), clip),
    }
    told = {name: round(100 * score, 1) for name, score in found.items()}
    assert np.isfinite(list(found.values())).all()
    assert told["optimized"] > told["not optimized"], told
    assert told["optimized"] > told["raw DINOv2"], told
    assert told["optimized"] > told["chained flow"], told
