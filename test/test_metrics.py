"""Scores against slow versions that follow the definitions word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dino_tracker_ros.evaluation.ground_truth import GroundTruth
from dino_tracker_ros.evaluation.metrics import delta_pixels, pck, scored_frames, tap_vid
from dino_tracker_ros.evaluation.report import Row, Scores, format_table, mean_rows, score
from dino_tracker_ros.tracking.tracks import Tracks

N, T, WIDTH, HEIGHT = 9, 14, 640, 360


def random_case(seed: int):
    random = np.random.default_rng(seed)
    true_points = random.uniform(0, [WIDTH, HEIGHT], (N, T, 2)).astype(np.float32)
    spread = random.choice([0.5, 3, 12, 60], (N, T, 1))
    points = (true_points + random.normal(0, 1, (N, T, 2)) * spread).astype(np.float32)
    queries = np.concatenate([random.integers(0, T, (N, 1)), true_points[:, 0]], axis=1).astype(
        np.float32
    )
    return points, random.random((N, T)) < 0.3, true_points, random.random((N, T)) < 0.25, queries


def slow_tap_vid(points, occluded, true_points, true_occluded, queries, mode, evaluate):
    deltas, jaccards = [], []
    for threshold in (1, 2, 4, 8, 16):
        near_visible = visible = hits = false_claims = right_flags = counted = 0
        for n in range(N):
            for t in range(T):
                after = t > queries[n, 0] if mode == "first" else t != queries[n, 0]
                if not after or not evaluate[n, t]:
                    continue
                dx = (points[n, t, 0] - true_points[n, t, 0]) * 256 / WIDTH
                dy = (points[n, t, 1] - true_points[n, t, 1]) * 256 / HEIGHT
                near = math.hypot(dx, dy) < threshold
                counted += 1
                right_flags += bool(occluded[n, t]) == bool(true_occluded[n, t])
                if not true_occluded[n, t]:
                    visible += 1
                    near_visible += near
                    if near and not occluded[n, t]:
                        hits += 1
                if not occluded[n, t] and (true_occluded[n, t] or not near):
                    false_claims += 1
        deltas.append(near_visible / visible)
        jaccards.append(hits / (visible + false_claims))
    return deltas, jaccards, right_flags / counted


@pytest.mark.parametrize("mode", ["strided", "first"])
@pytest.mark.parametrize("seed", range(4))
def test_tap_vid_equals_its_definition(mode, seed):
    points, occluded, true_points, true_occluded, queries = random_case(seed)
    evaluate = np.random.default_rng(seed + 100).random((N, T)) < 0.8
    scored = scored_frames(queries, T, mode) & evaluate
    got = tap_vid(points, occluded, true_points, true_occluded, scored, WIDTH, HEIGHT)
    deltas, jaccards, accuracy = slow_tap_vid(
        points, occluded, true_points, true_occluded, queries, mode, evaluate
    )
    assert got.delta == pytest.approx(deltas)
    assert got.delta_average == pytest.approx(np.mean(deltas))
    assert got.jaccard == pytest.approx(jaccards)
    assert got.average_jaccard == pytest.approx(np.mean(jaccards))
    assert got.occlusion_accuracy == pytest.approx(accuracy)


def test_tap_vid_by_hand():
    # One visible point 3 px off at 256x256: near for 4, 8 and 16 only; the second frame is
    # occluded and wrongly said to be visible.
    true_points = np.zeros((1, 3, 2), np.float32)
    points = np.array([[[0, 0], [3, 0], [9, 9]]], np.float32)
    true_occluded = np.array([[False, False, True]])
    scored = np.array([[False, True, True]])
    got = tap_vid(points, np.zeros((1, 3), bool), true_points, true_occluded, scored, 256, 256)
    assert got.delta == (0, 0, 1, 1, 1)
    assert got.jaccard == pytest.approx((0, 0, 1 / 2, 1 / 2, 1 / 2))
    assert got.occlusion_accuracy == 0.5


def test_thresholds_are_strict():
    points = np.array([[[1.0, 0.0]]], np.float32)
    zeros, yes = np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool)
    assert tap_vid(points, ~yes, zeros, ~yes, yes, 256, 256).delta == (0, 1, 1, 1, 1)
    assert delta_pixels(points * 3, zeros, yes, 854, 480) == 0
    assert delta_pixels(points * 2.999, zeros, yes, 854, 480) == 1
    assert pck(points * 20, zeros, yes, np.array([10_000])) == 0
    assert pck(points * 19.99, zeros, yes, np.array([10_000])) == 1


def test_unknown_true_points_count_nowhere():
    points, occluded, true_points, true_occluded, queries = random_case(1)
    scored = scored_frames(queries, T, "strided")
    expected = tap_vid(points, occluded, true_points, true_occluded, scored, WIDTH, HEIGHT)
    true_points = np.where(true_occluded[..., None], np.nan, true_points).astype(np.float32)
    got = tap_vid(points, occluded, true_points, true_occluded, scored, WIDTH, HEIGHT)
    assert got == expected


def test_without_flags_only_positions_are_scored():
    points, _, true_points, true_occluded, queries = random_case(2)
    scored = scored_frames(queries, T, "strided")
    got = tap_vid(points, None, true_points, true_occluded, scored, WIDTH, HEIGHT)
    assert got.average_jaccard is None and got.occlusion_accuracy is None and got.jaccard is None
    assert 0 < got.delta_average < 1


def test_nothing_to_score_is_nan():
    points, occluded, true_points, true_occluded, _ = random_case(3)
    none = np.zeros((N, T), bool)
    got = tap_vid(points, occluded, true_points, true_occluded, none, WIDTH, HEIGHT)
    assert math.isnan(got.delta_average) and math.isnan(got.average_jaccard)


@pytest.mark.parametrize("seed", range(3))
def test_badja_scores_equal_their_definitions(seed):
    points, _, true_points, hidden, _ = random_case(seed)
    areas = np.random.default_rng(seed).integers(400, 90_000, T)
    near_mask = near_pixels = count = 0
    for n in range(N):
        for t in range(T):
            if hidden[n, t]:
                continue
            count += 1
            dx, dy = points[n, t] - true_points[n, t]
            near_mask += math.hypot(dx, dy) < 0.2 * math.sqrt(areas[t])
            near_pixels += math.hypot(dx * 854 / WIDTH, dy * 480 / HEIGHT) < 3
    assert pck(points, true_points, ~hidden, areas) == pytest.approx(near_mask / count)
    got = delta_pixels(points, true_points, ~hidden, WIDTH, HEIGHT)
    assert got == pytest.approx(near_pixels / count)


def make_truth(has_occlusion: bool, masks: bool) -> tuple[Tracks, GroundTruth]:
    points, occluded, true_points, true_occluded, queries = random_case(5)
    truth = GroundTruth(
        queries, true_points, true_occluded, np.ones((N, T), bool), has_occlusion, WIDTH, HEIGHT,
        np.full(T, 40_000) if masks else None,
    )  # fmt: skip
    confidence = np.ones((N, T), np.float32)
    return Tracks(queries, points, occluded, confidence, np.arange(T), WIDTH, HEIGHT), truth


def test_score_leaves_out_what_is_not_labelled():
    with_flags = score(*make_truth(has_occlusion=True, masks=False))
    assert with_flags.pck is None and with_flags.delta_3px is None
    assert with_flags.occlusion_accuracy is not None and with_flags.average_jaccard is not None
    positions = score(*make_truth(has_occlusion=False, masks=True))
    assert positions.occlusion_accuracy is None and positions.average_jaccard is None
    assert positions.pck is not None and positions.delta_3px is not None


def test_table_has_one_line_per_row_and_means_over_known_scores():
    rows = [
        Row("a", "m", Scores(0.5, 0.25, 0.75, None, None), 2.0),
        Row("b", "m", Scores(None, None, 0.25, 0.9, 0.6), 4.0),
    ]
    (mean,) = mean_rows(rows)
    assert mean.scores == Scores(0.5, 0.25, 0.5, 0.9, 0.6) and mean.seconds == 3.0
    lines = format_table(rows).splitlines()
    assert lines[0].split() == ["clip", "method", "PCK", "δ_3px", "δ_avg", "OA", "AJ", "seconds"]
    assert lines[1].split() == ["a", "m", "50.0", "25.0", "75.0", "-", "-", "2.0"]
    assert lines[2].split() == ["b", "m", "-", "-", "25.0", "90.0", "60.0", "4.0"]
