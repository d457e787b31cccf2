"""Counts against slow versions that follow the definitions word by word."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

from dino_tracker_ros.evaluation import metrics

N, T, WIDTH, HEIGHT = 12, 40, 640, 360
SEEDS = range(5)
MODES = ("strided", "first")


@dataclass
class Case:
    """Random tracks with jumps onto each other's points, occlusions, still spells and gaps."""

    queries: np.ndarray
    true: np.ndarray
    placed: np.ndarray
    claimed: np.ndarray
    scored: np.ndarray
    known: np.ndarray
    visible: np.ndarray
    confidence: np.ndarray

    @property
    def right(self) -> np.ndarray:
        return self.claimed & self.visible & (self.distance < 8)

    @property
    def distance(self) -> np.ndarray:
        return metrics.distances(self.placed, self.true, WIDTH, HEIGHT)


def make_case(seed: int, mode: metrics.Mode) -> Case:
    random = np.random.default_rng(seed)
    moves = random.normal(0, 6, (N, T, 2)) * (random.random((N, 1, 1)) < 0.6)
    true = random.uniform(80, 280, (N, 1, 2)) + np.cumsum(moves, axis=1)
    target = np.where(spells(random, 0.1), random.integers(0, N, (N, T)), np.arange(N)[:, None])
    noise = random.normal(0, 1, (N, T, 2)) * random.choice([0.3, 3, 12], (N, T, 1))
    placed = true[target, np.arange(T)] + noise
    placed[random.random((N, T)) < 0.02] = np.nan
    hidden = spells(random, 0.12)
    queries = np.zeros((N, 3), np.float32)
    queries[:, 0] = random.integers(0, T, N)
    hidden[np.arange(N), queries[:, 0].astype(int)] = False
    evaluate = random.random((N, T)) < 0.98
    scored = metrics.scored_frames(queries, T, mode) & evaluate
    known = evaluate & ~hidden
    true[~known] = np.nan
    confidence = random.random((N, T)).astype(np.float32)
    confidence[0, :3] = 0, 1, np.nan
    return Case(
        queries, true.astype(np.float32), placed.astype(np.float32),
        ~hidden ^ (random.random((N, T)) < 0.15), scored, known, scored & known, confidence,
    )  # fmt: skip


def spells(random: np.random.Generator, rate: float) -> np.ndarray:
    """Runs of up to 12 frames."""
    flags = np.zeros((N, T), bool)
    for n, t in np.argwhere(random.random((N, T)) < rate / 3):
        flags[n, t : t + random.integers(1, 13)] = True
    return flags


def error(case: Case, n: int, t: int, to: int | None = None, size=(256, 256)) -> float:
    """Distance of track n from the true point `to`, its own unless given; inf if unknown."""
    place, true = case.placed[n, t].astype(float), case.true[n if to is None else to, t]
    return length((place - true) * [size[0] / WIDTH, size[1] / HEIGHT])


def length(vector) -> float:
    found = math.hypot(*vector)
    return math.inf if math.isnan(found) else found


def ways(case: Case, n: int) -> list[list[int]]:
    """Frames away from the query: forwards, and backwards."""
    query = int(case.queries[n, 0])
    return [list(range(query + 1, T)), list(range(query - 1, -1, -1))]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_tap_vid_counts_equal_their_definitions(seed, mode):
    case = make_case(seed, mode)
    near = metrics.near_counts(case.distance, case.visible)
    hits, false_claims = metrics.jaccard_counts(
        case.distance, case.claimed, case.visible, case.scored
    )
    for n in range(N):
        for k, threshold in enumerate((1, 2, 4, 8, 16)):
            expected = [0, 0, 0]
            for t in range(T):
                after = t > case.queries[n, 0] if mode == "first" else t != case.queries[n, 0]
                assert case.scored[n, t] <= after
                close = case.visible[n, t] and error(case, n, t) < threshold
                expected[0] += close
                expected[1] += close and case.claimed[n, t]
                expected[2] += case.scored[n, t] and case.claimed[n, t] and not close
            assert [near[n, k], hits[n, k], false_claims[n, k]] == expected
    assert hits.sum() and false_claims.sum() and near.sum()


def test_scored_frames_leave_out_the_query_and_what_comes_before_it():
    queries = np.array([[2, 0, 0]], np.float32)
    assert metrics.scored_frames(queries, 4, "strided").tolist() == [[True, True, False, True]]
    assert metrics.scored_frames(queries, 4, "every").tolist() == [[True, True, False, True]]
    assert metrics.scored_frames(queries, 4, "first").tolist() == [[False, False, False, True]]


def test_thresholds_are_strict():
    distance, yes = np.array([[1.0]]), np.ones((1, 1), bool)
    assert metrics.near_counts(distance, yes).tolist() == [[0, 1, 1, 1, 1]]
    origin, area = np.zeros((1, 1, 2)), np.array([10_000])
    for place, near in ((20, 0), (19.99, 1)):
        placed = np.array([[[place, 0]]])
        assert metrics.near_mask_counts(placed, origin, yes, area).tolist() == [near]


@pytest.mark.parametrize("seed", SEEDS)
def test_badja_counts_equal_their_definitions(seed):
    case = make_case(seed, "strided")
    areas = np.random.default_rng(seed).integers(400, 9_000, T)
    found = metrics.near_mask_counts(case.placed, case.true, case.visible, areas)
    scaled = metrics.distances(case.placed, case.true, WIDTH, HEIGHT, (854, 480))
    for n in range(N):
        expected = 0
        for t in np.flatnonzero(case.visible[n]):
            expected += error(case, n, t, size=(WIDTH, HEIGHT)) < 0.2 * math.sqrt(areas[t])
            if math.isfinite(error(case, n, t)):
                assert scaled[n, t] == pytest.approx(error(case, n, t, size=(854, 480)))
        assert found[n] == expected


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_survival_equals_its_definition(seed, mode):
    case = make_case(seed, mode)
    found = metrics.survived_counts(case.distance, case.visible, case.scored, case.queries)
    for n in range(N):
        expected = 0
        for frames in ways(case, n):
            for t in frames:
                if case.visible[n, t] and error(case, n, t) > 50:
                    break
                expected += case.scored[n, t]
        assert found[n] == expected
    assert 0 < found.sum() < case.scored.sum()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", SEEDS)
def test_switches_equal_their_definition(seed, mode):
    case = make_case(seed, mode)
    found = metrics.switch_counts(
        case.placed, case.true, case.claimed, case.visible, case.known, case.queries, WIDTH, HEIGHT
    )
    for n in range(N):
        expected = 0
        for frames in ways(case, n):
            last = n
            for t in frames:
                if not case.visible[n, t] or not case.claimed[n, t]:
                    continue
                others = {
                    m: error(case, n, t, m)
                    for m in range(N)
                    if case.known[m, t] and apart(case, n, m, t) >= 16
                }
                nearest = min(others, key=others.get, default=n)
                now = n if error(case, n, t) < 8 else nearest
                if error(case, n, t, now) >= 8:
                    continue
                expected += now not in (n, last)
                last = now
        assert found[n] == expected
    assert found.sum() > 0


def apart(case: Case, n: int, m: int, t: int) -> float:
    return length((case.true[n, t] - case.true[m, t]) * [256 / WIDTH, 256 / HEIGHT])


def test_switches_by_hand():
    # Two points 100 px apart. The first jumps to the second, gets lost, comes back to the second
    # (no new switch), goes home, and jumps again; the second drifts onto nothing.
    true = np.zeros((2, 7, 2), np.float32)
    true[1] = 100, 0
    placed = true.copy()
    placed[0, :, 0] = 0, 98, 50, 103, 1, 0, 100
    placed[1, 3:, 0] = 80
    yes = np.ones((2, 7), bool)
    queries = np.array([[0, 0, 0], [0, 100, 0]], np.float32)
    scored = metrics.scored_frames(queries, 7, "strided")
    found = metrics.switch_counts(placed, true, yes, scored, yes, queries, 256, 256)
    assert found.tolist() == [2, 0]
    never = metrics.switch_counts(placed, true, ~yes, scored, yes, queries, 256, 256)
    assert never.tolist() == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_re_found_equals_its_definition(mode):
    total = np.zeros(2, int)
    for seed in range(20):
        case = make_case(seed, mode)
        found = metrics.re_found_counts(case.right, case.visible, case.scored, case.queries)
        for n in range(N):
            expected = [0, 0]
            for frames in ways(case, n):
                for place, t in enumerate(frames):
                    before = frames[place - 5 : place] if place >= 5 else []
                    hidden = [case.scored[n, s] and not case.visible[n, s] for s in before]
                    if case.visible[n, t] and hidden and all(hidden):
                        window = frames[place : place + 5]
                        expected[0] += 1
                        expected[1] += any(
                            case.visible[n, s] and case.claimed[n, s] and error(case, n, s) < 8
                            for s in window
                        )
            assert [found[0][n], found[1][n]] == expected
        total += [found[0].sum(), found[1].sum()]
    assert 0 < total[1] < total[0]


def test_jitter_equals_its_definition():
    total = 0
    for seed in range(20):
        case = make_case(seed, "strided")
        windows, squares = metrics.jitter_sums(case.placed, case.true, case.right)
        for n in range(N):
            expected, count = 0.0, 0
            for t in range(T - 4):
                span = slice(t, t + 5)
                true, placed = case.true[n, span].astype(float), case.placed[n, span].astype(float)
                if not (case.visible[n, span] & case.claimed[n, span]).all():
                    continue
                if max(error(case, n, s) for s in range(t, t + 5)) >= 8:
                    continue
                if max(length(point - true.mean(axis=0)) for point in true) >= 0.5:
                    continue
                off = placed - true
                expected += np.mean([length(each - off.mean(axis=0)) ** 2 for each in off])
                count += 1
            assert windows[n] == count
            assert squares[n] == pytest.approx(expected)
        total += windows.sum()
    assert total > 100


def test_a_constant_error_on_a_still_point_is_no_jitter():
    true = np.zeros((1, 9, 2), np.float32)
    yes = np.ones((1, 9), bool)
    windows, squares = metrics.jitter_sums(true + 7, true, yes)
    assert windows.tolist() == [5] and squares.tolist() == [0]
    shaken = true.copy()
    shaken[0, 1::2, 0] = 1
    assert metrics.jitter_sums(shaken, true, yes)[1] == pytest.approx(5 * 0.24)


def test_a_clip_shorter_than_a_window_has_no_jitter():
    points, yes = np.zeros((2, 4, 2), np.float32), np.ones((2, 4), bool)
    assert metrics.jitter_sums(points, points, yes)[0].tolist() == [0, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_confidence_bins_equal_their_definition(seed):
    case = make_case(seed, "strided")
    frames, confidence, right = metrics.confidence_sums(
        case.confidence, case.distance, case.visible, case.scored
    )
    for n in range(N):
        expected = np.zeros((3, 10))
        for t in np.flatnonzero(case.scored[n]):
            given = float(case.confidence[n, t])
            given = 0.0 if math.isnan(given) else given
            place = min(int(given * 10), 9)
            expected[:, place] += 1, given, case.visible[n, t] and error(case, n, t) < 8
        assert np.array([frames[n], confidence[n], right[n]]) == pytest.approx(expected)
    assert frames.sum() == case.scored.sum()


def test_longest_occlusion_is_the_longest_run_that_counts():
    scored = np.array([[1, 1, 1, 0, 1, 1, 1, 1]], bool)
    visible = np.array([[0, 0, 1, 0, 0, 0, 0, 1]], bool)
    assert metrics.longest_occlusions(visible & scored, scored).tolist() == [3]
