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


def optimized(clip: SyntheticClip, cache: WeightsCache, **changed: object) -> dict[str, float]:
    """δ_avg before and after the optimization, and of what the tracker is made from."""
    values = {name.replace("__", "."): value for name, value in changed.items()}
    settings = with_values(preset("cpu"), {"device": "cpu", "clip.longest_side": 320, **values})
    tracker = DinoTracker(settings, cache)
    for frame in clip.frames:
        tracker.observe(frame)
    queries = clip.truth.queries
    unfitted = tracker.track(queries)
    assert tracker.fit().stopped == "iterations"
    found = {
        "not optimized": unfitted,
        "optimized": tracker.track(queries),
        "raw DINOv2": track_raw_dino(clip.frames, queries, settings),
        "chained flow": track_chained_flow(clip.frames, queries, settings),
    }
    return {name: round(100 * delta_average(tracks, clip), 1) for name, tracks in found.items()}


@pytest.fixture(scope="module")
def clips() -> list[SyntheticClip]:
    pytest.importorskip("skimage", reason="the photographs come in scikit-image's wheel")
    return [make_clip(width=320, height=240, length=16, seed=k, tracks=60) for k in (1, 2, 3)]


@pytest.mark.slow
@pytest.mark.weights
def test_optimization_beats_raw_matching_and_chained_flow(
    clips: list[SyntheticClip], weights_cache: WeightsCache
) -> None:
    for clip in clips:
        each = optimized(clip, weights_cache)
        assert np.isfinite(list(each.values())).all()
        assert each["optimized"] > each["raw DINOv2"], each
        assert each["optimized"] > each["chained flow"], each


@pytest.mark.slow
@pytest.mark.weights
def test_optimized_paths_are_better(
    clips: list[SyntheticClip], weights_cache: WeightsCache
) -> None:
    """Without registration, which leaves nothing to gain on such stiff things."""
    told = [optimized(clip, weights_cache, registration__enabled=False) for clip in clips]
    gain = [each["optimized"] - each["not optimized"] for each in told]
    assert np.mean(gain) > 1, told


@pytest.mark.slow
@pytest.mark.weights
def test_optimized_features_match_better(
    clips: list[SyntheticClip], weights_cache: WeightsCache
) -> None:
    """What is optimized, on its own: one match a frame, as published."""
    plain = {"hypotheses__enabled": False, "registration__enabled": False}
    each = optimized(clips[0], weights_cache, **plain)
    assert each["optimized"] > each["not optimized"] + 5, each
