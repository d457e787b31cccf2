"""Scores from counts: values, what is left out, intervals, bins, and the way to a file."""

from __future__ import annotations

import io
from dataclasses import fields, replace

import numpy as np
import pytest

from dino_tracker_ros.evaluation.scores import (
    HEADLINES,
    METRICS,
    ScoreError,
    calibration,
    count,
    counts_from_arrays,
    counts_to_arrays,
    scores,
    scores_by_occlusion,
)
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.tracks import Tracks

N, T, WIDTH, HEIGHT = 30, 24, 320, 240
FLAGS_ALONE = {
    "occlusion_accuracy", "average_jaccard", "survival", "re_found", "calibration_error",
    *(f"jaccard_{threshold}" for threshold in (1, 2, 4, 8, 16)),
}  # fmt: skip


def make_truth(seed: int = 0, labelled: bool = True, masks: bool = False) -> GroundTruth:
    """Points moving half a pixel a frame, hidden in one run each (none in every third)."""
    random = np.random.default_rng(seed)
    start = random.uniform(40, 200, (N, 1, 2))
    speed = random.uniform(-0.1, 0.1, (N, 1, 2))
    points = (start + speed * np.arange(T)[None, :, None]).astype(np.float32)
    occluded = np.zeros((N, T), bool)
    for n in range(N):
        if n % 3:
            first = random.integers(2, 10)
            occluded[n, first : first + random.integers(2, 14)] = True
    queries = np.concatenate([np.zeros((N, 1)), points[:, 0]], axis=1).astype(np.float32)
    evaluate = np.ones((N, T), bool) if labelled else ~occluded
    areas = np.full(T, 900) if masks else None
    return GroundTruth(queries, points, occluded, evaluate, labelled, WIDTH, HEIGHT, areas)


def perfect(truth: GroundTruth) -> Tracks:
    confidence = (~truth.occluded).astype(np.float32)
    return Tracks(
        truth.queries, truth.points, truth.occluded, confidence, np.arange(T), WIDTH, HEIGHT
    )


def noisy(truth: GroundTruth, seed: int = 0) -> Tracks:
    random = np.random.default_rng(seed)
    spread = random.choice([0.5, 2, 9, 40], (N, 1, 1))
    return replace(
        perfect(truth),
        points=(truth.points + random.normal(0, 1, (N, T, 2)) * spread).astype(np.float32),
        occluded=truth.occluded ^ (random.random((N, T)) < 0.2),
        confidence=random.random((N, T)).astype(np.float32),
    )


def values(*clips) -> dict[str, float]:
    return {name: score.value for name, score in scores(clips, resamples=0).items()}


def test_perfect_tracks_have_perfect_scores():
    truth = make_truth()
    found = values(count(perfect(truth), truth))
    assert set(found) == {metric.name for metric in METRICS} - {"pck", "delta_3px"}
    for metric in METRICS:
        if metric.name in found:
            assert found[metric.name] == (1 if metric.higher_is_better else 0), metric.name


def test_scores_equal_the_definitions_over_all_tracks():
    truth = make_truth(1)
    tracks = noisy(truth, 1)
    found = values(count(tracks, truth))
    near, hits, claims = np.zeros((3, 5))
    visible = said_visible = right_flags = 0
    for n in range(N):
        for t in range(1, T):
            seen, claimed = not truth.occluded[n, t], not tracks.occluded[n, t]
            off = (tracks.points[n, t] - truth.points[n, t]).astype(float)
            error = np.hypot(off[0] * 256 / WIDTH, off[1] * 256 / HEIGHT)
            visible += seen
            said_visible += seen and claimed
            right_flags += seen == claimed
            for k, threshold in enumerate((1, 2, 4, 8, 16)):
                near[k] += seen and error < threshold
                hits[k] += seen and claimed and error < threshold
                claims[k] += claimed and not (seen and error < threshold)
    for k, threshold in enumerate((1, 2, 4, 8, 16)):
        assert found[f"delta_{threshold}"] == pytest.approx(near[k] / visible)
        assert found[f"jaccard_{threshold}"] == pytest.approx(hits[k] / (visible + claims[k]))
    assert found["delta_average"] == pytest.approx(np.mean(near / visible))
    assert found["average_jaccard"] == pytest.approx(np.mean(hits / (visible + claims)))
    assert found["occlusion_accuracy"] == pytest.approx(right_flags / (N * (T - 1)))
    assert found["said_visible"] == pytest.approx(said_visible / visible)


def test_what_the_labels_do_not_support_is_left_out():
    truth = make_truth(labelled=False, masks=True)
    found = values(count(noisy(truth), truth))
    assert not FLAGS_ALONE & set(found)
    assert {"pck", "delta_3px", "delta_average", "said_visible", "id_switches"} <= set(found)
    truth = make_truth()
    assert set(values(count(noisy(truth), truth))) >= FLAGS_ALONE


def test_without_an_event_there_is_no_score_of_it():
    truth = replace(make_truth(), occluded=np.zeros((N, T), bool))
    assert "re_found" not in values(count(perfect(truth), truth))
    moving = truth.points + 5 * np.arange(T)[None, :, None].astype(np.float32)
    truth = replace(truth, points=moving)
    assert "jitter" not in values(count(perfect(truth), truth))
    nothing = replace(truth, evaluate=np.zeros((N, T), bool))
    assert values(count(perfect(nothing), nothing)) == {}


def test_unknown_predictions_are_wrong_and_unknown_truths_count_nowhere():
    truth = make_truth()
    expected = values(count(noisy(truth), truth))
    hidden = np.where(truth.occluded[..., None], np.nan, truth.points).astype(np.float32)
    assert values(count(noisy(truth), replace(truth, points=hidden))) == expected
    lost = replace(perfect(truth), points=np.full((N, T, 2), np.nan, np.float32))
    found = values(count(lost, truth))
    assert found["delta_average"] == found["average_jaccard"] == found["re_found"] == 0
    assert found["survival"] < 0.2 and found["calibration_error"] > 0.5
    assert "jitter" not in found


def test_the_mode_says_which_frames_count():
    truth = make_truth()
    queries = truth.queries.copy()
    queries[:, 0] = T - 1
    truth = replace(truth, queries=queries)
    assert count(perfect(truth), truth, "strided").frames.tolist() == [T - 1] * N
    assert count(perfect(truth), truth, "first").frames.tolist() == [0] * N


def test_several_clips_are_averaged_as_far_as_they_have_a_score():
    truths = [make_truth(0), make_truth(1), make_truth(2, labelled=False)]
    counts = [count(noisy(truth, seed), truth) for seed, truth in enumerate(truths)]
    single = [values(each) for each in counts]
    pooled = scores(counts)
    for name, score in pooled.items():
        have = [each[name] for each in single if name in each]
        assert score.value == pytest.approx(np.mean(have)), name
    assert pooled["delta_average"].count == 3 * N
    assert pooled["average_jaccard"].count == 2 * N
    assert pooled["re_found"].count < 2 * N


def test_intervals_are_repeatable_and_hold_the_value():
    truth = make_truth()
    counts = [count(noisy(truth), truth)]
    assert scores(counts) == scores(counts)
    assert scores(counts, seed=1) != scores(counts)
    for score in scores(counts).values():
        assert score.low <= score.value <= score.high


def test_intervals_are_those_of_resampled_tracks():
    truth = make_truth(3)
    tracks = noisy(truth, 3)
    found = scores([count(tracks, truth)], resamples=2000)["delta_8"]
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(500):
        rows = random.integers(0, N, N)
        part = replace(
            truth, queries=truth.queries[rows], points=truth.points[rows],
            occluded=truth.occluded[rows], evaluate=truth.evaluate[rows],
        )  # fmt: skip
        taken = replace(
            tracks, queries=part.queries, points=tracks.points[rows],
            occluded=tracks.occluded[rows], confidence=tracks.confidence[rows],
        )  # fmt: skip
        drawn.append(values(count(taken, part))["delta_8"])
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert found.low == pytest.approx(low, abs=0.03)
    assert found.high == pytest.approx(high, abs=0.03)
    assert high - low > 0.1


def test_bins_split_the_tracks_by_their_longest_occlusion():
    truth = make_truth()
    counts = count(noisy(truth), truth)
    found = scores_by_occlusion([counts])
    assert list(found) == ["0", "1-4", "5-15"]
    lengths = truth.occluded.sum(axis=1)
    for name, inside in {"0": lengths == 0, "1-4": (lengths > 0) & (lengths < 5)}.items():
        assert found[name]["delta_average"].count == inside.sum()
        part = {key: array[inside] for key, array in counts_to_arrays(counts).items()}
        expected = values(counts_from_arrays(part))
        assert {key: score.value for key, score in found[name].items()} == pytest.approx(expected)
    positions = make_truth(labelled=False)
    assert scores_by_occlusion([count(noisy(positions), positions)]) == {}


def test_calibration_is_how_often_a_confidence_is_right():
    truth = make_truth()
    right = ~truth.occluded[:, 1:]
    tracks = replace(perfect(truth), confidence=np.full((N, T), 0.73, np.float32))
    counts = count(tracks, truth)
    (full,) = [each for each in calibration([counts, counts]) if each.count]
    assert (full.low, full.high, full.count) == (0.7, 0.8, 2 * right.size)
    assert full.mean_confidence == pytest.approx(0.73)
    assert full.right == pytest.approx(right.mean())
    assert values(counts)["calibration_error"] == pytest.approx(abs(right.mean() - 0.73))
    positions = make_truth(labelled=False)
    assert calibration([count(noisy(positions), positions)]) == ()


@pytest.mark.parametrize("labelled", [True, False])
def test_counts_pass_through_a_file_without_pickle(labelled):
    truth = make_truth(labelled=labelled)
    counts = count(noisy(truth), truth)
    file = io.BytesIO()
    np.savez(file, **counts_to_arrays(counts))
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = counts_from_arrays(arrays)
    for item in fields(counts):
        np.testing.assert_array_equal(getattr(back, item.name), getattr(counts, item.name))
    assert scores([back]) == scores([counts])


def test_tracks_of_something_else_are_refused():
    truth = make_truth()
    tracks = perfect(truth)
    with pytest.raises(ScoreError, match="29 points over 24 frames, but known ones of 30 points"):
        count(replace(tracks, points=tracks.points[1:]), truth)
    with pytest.raises(ScoreError, match="160x240 px, but known ones in 320x240"):
        count(replace(tracks, width=160), truth)


def test_headlines_come_first_and_names_are_unique():
    assert METRICS[: len(HEADLINES)] == HEADLINES
    assert len({metric.name for metric in METRICS}) == len(METRICS)
