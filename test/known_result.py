"""A small evaluation result whose numbers are known, on frames of noise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.report.results import ClipResult, MethodResult
from dino_tracker_ros.evaluation.report.strips import clip_pictures
from dino_tracker_ros.evaluation.scores import count
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth, LabelledClip
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.tracks import Tracks

WIDTH, HEIGHT = 256, 192
FRAMES = 12


def known_clip(tracks: int = 14, has_occlusion: bool = True) -> LabelledClip:
    """Points on a grid that all move 2 px to the right a frame; each is hidden in frames 5 to 7.

    They are asked for in frame 0, but the last one, which is in frame 6 shown and asked for.
    """
    random = np.random.default_rng(3)
    start = np.stack(
        [20.0 + 30 * (np.arange(tracks) % 7), 30.0 + 40 * (np.arange(tracks) // 7)], axis=-1
    )
    points = start[:, None] + np.arange(FRAMES)[None, :, None] * np.array([2.0, 0.0])
    occluded = np.zeros((tracks, FRAMES), bool)
    occluded[:, 5:8] = has_occlusion
    occluded[-1] = False
    queries = np.insert(points[:, 0], 0, 0, axis=1)
    queries[-1] = (6, *points[-1, 6])
    truth = GroundTruth(
        queries=queries.astype(np.float32),
        points=points.astype(np.float32),
        occluded=occluded,
        evaluate=np.ones((tracks, FRAMES), bool),
        has_occlusion=has_occlusion,
        width=WIDTH,
        height=HEIGHT,
        mask_areas=None if has_occlusion else np.full(FRAMES, 900),
    )
    frames = [
        Frame(random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), index * 100_000_000)
        for index in range(FRAMES)
    ]
    return LabelledClip("known", frames, truth)


def off_by(truth: GroundTruth, errors: NDArray[np.floating]) -> Tracks:
    """Tracks that are `errors` [N, T] px below the truth, with the right flags."""
    shift = np.stack([np.zeros_like(errors), errors], axis=-1)
    return Tracks(
        queries=truth.queries,
        points=(truth.points + shift).astype(np.float32),
        occluded=truth.occluded,
        confidence=np.where(truth.occluded, 0.1, 0.9).astype(np.float32),
        stamps=np.arange(FRAMES, dtype=np.int64) * 100_000_000,
        width=truth.width,
        height=truth.height,
    )


def known_result(
    name: str = "known",
    methods: Mapping[str, float] | None = None,
    *,
    has_occlusion: bool = True,
    live: Mapping[str, float] | None = None,
) -> ClipResult:
    """A result in which each method is so many px off everywhere; only the first has pictures."""
    clip = known_clip(has_occlusion=has_occlusion)
    results = []
    for method, error in (methods or {"DINO-Tracker": 1.5, "no motion": 20.0}).items():
        tracks = off_by(clip.truth, np.full(clip.truth.occluded.shape, error))
        counts = count(tracks, clip.truth)
        stages = {} if results else {"features": 1.0, "fit": 2.0}
        results.append(MethodResult(method, tracks, counts, 3.5, stages, live or {}))
    return ClipResult(
        name=name,
        source=f"/data/{name}.bag",
        truth=clip.truth,
        mode="strided",
        settings={"clip.length": 48, "optimizer.seed": 7},
        run={"Python": "3.10", "weights model": "sha256 0123"},
        methods=tuple(results),
        pictures=clip_pictures(clip, results[0].tracks),
    )
