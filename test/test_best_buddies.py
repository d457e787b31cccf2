"""Best buddies, their ambiguity and the flow filter, against loops over single tokens."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.best_buddies import (
    ambiguity,
    choose_pairs,
    find_best_buddies,
    mutual_nearest,
    nearest_trajectory,
)
from dino_tracker_ros.tracking.matching import unit_length
from dino_tracker_ros.tracking.settings import BestBuddySettings
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import Trajectories

HEIGHT, WIDTH, FRAMES = 90, 118, 4
HALF, IOU = 30.0, 0.2


def centres_of(grid: TokenGrid) -> list[tuple[float, float]]:
    """(x, y) px of tokens, row by row: a patch of even side has its middle half a pixel off."""
    middle = (grid.patch - 1) / 2 - grid.patch // 2
    return [
        (middle + column * grid.stride, middle + row * grid.stride)
        for row in range(grid.rows)
        for column in range(grid.cols)
    ]


def features_of(grid: TokenGrid, seed: int) -> Tensor:
    """Smooth maps that drift from frame to frame, so that peaks are broad and some pairs mutual."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, 12, 5, 6, generator=generator)
    maps = []
    for _ in range(FRAMES):
        coarse = coarse + 0.35 * torch.randn(coarse.shape, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (grid.rows, grid.cols), mode="bicubic")
        maps.append(fine + 0.15 * torch.randn(fine.shape, generator=generator))
    return unit_length(torch.cat(maps), dim=1)


def no_trajectories() -> Trajectories:
    return Trajectories(
        torch.zeros(0, FRAMES, 2), torch.zeros(0, FRAMES, dtype=torch.bool), torch.zeros(0).long()
    )


# ---- the same, slowly ----


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / (math.sqrt((a * a).sum()) * math.sqrt((b * b).sum())))


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of the boxes around two points."""
    wide = min(a[0], b[0]) + HALF - (max(a[0], b[0]) - HALF)
    high = min(a[1], b[1]) + HALF - (max(a[1], b[1]) - HALF)
    shared = max(0.0, wide) * max(0.0, high)
    return shared / (2 * (2 * HALF) ** 2 - shared)


def slow_ambiguity(
    similarity: list[float], centres: list[tuple[float, float]], candidates: int
) -> float:
    """Second over first peak of a greedy non-maximum suppression."""
    order = sorted(range(len(similarity)), key=lambda k: -similarity[k])[:candidates]
    peaks: list[int] = []
    while order:
        best = order.pop(0)
        peaks.append(best)
        order = [k for k in order if overlap(centres[k], centres[best]) <= IOU]
    if len(peaks) == 1:
        return 0.0
    return max(0.0, similarity[peaks[1]] / similarity[peaks[0]])


def slow_best_buddies(
    features: Tensor, grid: TokenGrid, i: int, j: int, candidates: int
) -> dict[tuple[int, int], tuple[float, float]]:
    """(source, target token) to (cosine, ambiguity), without looking at flow."""
    first = features[i].flatten(1).T.double().numpy()
    second = features[j].flatten(1).T.double().numpy()
    n = len(first)
    table = [[cosine(first[a], second[b]) for b in range(n)] for a in range(n)]
    centres = centres_of(grid)
    found = {}
    for a in range(n):
        b = max(range(n), key=lambda k: table[a][k])
        if max(range(n), key=lambda k: table[k][b]) != a:
            continue
        there = slow_ambiguity(table[a], centres, candidates)
        back = slow_ambiguity([table[k][b] for k in range(n)], centres, candidates)
        found[a, b] = (table[a][b], max(there, back))
    return found


def found_pairs(buddies: object) -> dict[tuple[int, int, int, int], tuple[float, float]]:
    return {
        (*frames, *tokens): (float(c), float(r))
        for frames, tokens, c, r in zip(
            buddies.frames.tolist(), buddies.tokens.tolist(), buddies.cosine, buddies.ambiguity
        )
    }


# ---- tests ----


@pytest.mark.parametrize("stride", [14, 7])
@pytest.mark.parametrize("candidates", [400, 40])
def test_best_buddies_are_the_slow_ones(stride: int, candidates: int) -> None:
    size = (HEIGHT, WIDTH) if stride == 14 else (62, 90)
    grid = TokenGrid(*size, stride=stride)
    features = features_of(grid, seed=stride)
    settings = BestBuddySettings(peak_candidates=candidates)
    pairs = [(0, 1), (1, 3)]
    ours = found_pairs(find_best_buddies(features, grid, pairs, no_trajectories(), settings))
    expected = {
        (i, j, *tokens): values
        for i, j in pairs
        for tokens, values in slow_best_buddies(features, grid, i, j, candidates).items()
    }
    assert len(expected) > 15
    assert ours.keys() == expected.keys()
    for key, values in ours.items():
        assert values == pytest.approx(expected[key], abs=1e-4)
    assert np.ptp([r for _, r in ours.values()]) > 0.1


def test_few_candidates_may_leave_no_second_peak() -> None:
    grid = TokenGrid(HEIGHT, WIDTH)
    centres = centres_of(grid)
    # One broad hill: all near candidates lie inside the first peak's box.
    peak = (grid.rows // 2) * grid.cols + grid.cols // 2
    similarity = [-math.dist(c, centres[peak]) / 500 + 0.9 for c in centres]
    few, many = BestBuddySettings(peak_candidates=5), BestBuddySettings()
    row, best = torch.tensor([similarity]), torch.tensor([peak])
    assert slow_ambiguity(similarity, centres, 5) == 0
    assert ambiguity(row, best, grid, few).tolist() == [0.0]
    expected = slow_ambiguity(similarity, centres, 400)
    assert expected > 0.5
    assert ambiguity(row, best, grid, many).tolist() == pytest.approx([expected], abs=1e-5)


def test_ambiguity_by_hand() -> None:
    grid = TokenGrid(140, 140)
    similarity = torch.full((1, grid.rows * grid.cols), 0.1)
    peak = 5 * grid.cols + 5
    similarity[0, peak] = 0.8
    beside, twin = peak + 2, peak + 4
    # 28 px beside: 32 of 60 px shared, IoU 0.36: suppressed. 56 px: 4 shared, IoU 0.03: kept.
    similarity[0, beside], similarity[0, twin] = 0.7, 0.6
    settings = BestBuddySettings()
    found = ambiguity(similarity, torch.tensor([peak]), grid, settings)
    assert found.item() == pytest.approx(0.75)
    # With every box kept apart unless identical, the neighbour is the second peak.
    settings = BestBuddySettings(peak_overlap=0.999)
    found = ambiguity(similarity, torch.tensor([peak]), grid, settings)
    assert found.item() == pytest.approx(0.875)
    similarity[0, beside] = similarity[0, twin] = similarity[0, peak]
    found = ambiguity(similarity, torch.tensor([peak]), grid, BestBuddySettings())
    assert found.item() == pytest.approx(1.0)


def test_ambiguity_never_leaves_its_range() -> None:
    grid = TokenGrid(56, 84)
    generator = torch.Generator().manual_seed(0)
    similarity = 2 * torch.rand(40, grid.rows * grid.cols, generator=generator) - 1
    found = ambiguity(similarity, similarity.argmax(dim=1), grid, BestBuddySettings())
    assert ((found >= 0) & (found <= 1)).all()
    negative = -similarity.abs() - 1
    found = ambiguity(negative, negative.argmax(dim=1), grid, BestBuddySettings())
    assert ((found >= 0) & (found <= 1)).all()


def test_mutual_nearest_by_hand() -> None:
    similarity = torch.tensor(
        [
            [0.9, 0.1, 0.2, 0.0],
            [0.8, 0.3, 0.1, 0.0],  # prefers column 0, which prefers row 0
            [0.1, 0.2, 0.7, 0.6],
        ]
    )
    rows, columns = mutual_nearest(similarity)
    assert rows.tolist() == [0, 2]
    assert columns.tolist() == [0, 2]


def random_trajectories(count: int, seed: int) -> Trajectories:
    random = np.random.default_rng(seed)
    points = random.integers(0, [WIDTH, HEIGHT], (count, FRAMES, 2)).astype(np.float32)
    valid = random.random((count, FRAMES)) < 0.6
    return Trajectories(
        torch.from_numpy(points), torch.from_numpy(valid), torch.zeros(count, dtype=torch.long)
    )


def distances(trajectories: Trajectories, centre: tuple[float, float], t: int) -> dict[int, float]:
    return {
        m: math.dist(trajectories.points[m, t].tolist(), centre)
        for m in range(len(trajectories.start))
        if trajectories.valid[m, t]
    }


def test_flow_silences_best_buddies_where_it_says_something() -> None:
    """Kept only where the trajectory nearest the source is not valid in the target frame, and the
    one nearest the target is not valid in the source frame."""
    grid = TokenGrid(HEIGHT, WIDTH)
    features = features_of(grid, seed=5)
    trajectories = random_trajectories(14, seed=2)
    pairs = choose_pairs(FRAMES, 0, 0)
    settings = BestBuddySettings()
    ours = found_pairs(find_best_buddies(features, grid, pairs, trajectories, settings))
    everything = found_pairs(find_best_buddies(features, grid, pairs, no_trajectories(), settings))
    centres = centres_of(grid)

    def speaks(token: int, at: int, other: int) -> bool | None:
        """Whether flow follows a token to another frame; None where two are about as near."""
        far = distances(trajectories, centres[token], at)
        least = min(far.values())
        # Distances on the pixel grid are known to about a pixel and a fiftieth.
        near = [m for m, d in far.items() if d <= least * 1.05 + 2]
        answers = {bool(trajectories.valid[m, other]) for m in near}
        return answers.pop() if len(answers) == 1 else None

    kept = dropped = 0
    for i, j, a, b in everything:
        said = speaks(a, i, j), speaks(b, j, i)
        if True in said:
            assert (i, j, a, b) not in ours
            dropped += 1
        elif None not in said:
            assert ours[i, j, a, b] == everything[i, j, a, b]
            kept += 1
    assert kept > 10 and dropped > 10
    assert ours.keys() <= everything.keys()


@pytest.mark.parametrize(("height", "width", "stride"), [(90, 118, 14), (61, 40, 7), (16, 16, 14)])
def test_the_nearest_trajectory_is_the_nearest(height: int, width: int, stride: int) -> None:
    grid = TokenGrid(height, width, stride=stride)
    random = np.random.default_rng(0)
    points = random.uniform(0, [width - 1, height - 1], (30, 3, 2)).astype(np.float32)
    valid = random.random((30, 3)) < 0.7
    valid[:, 2] = False
    trajectories = Trajectories(
        torch.from_numpy(points), torch.from_numpy(valid), torch.zeros(30, dtype=torch.long)
    )
    nothing = nearest_trajectory(trajectories, grid, 2)
    assert nothing.shape == (grid.rows * grid.cols,)
    assert (nothing == -1).all()
    for t in (0, 1):
        nearest = nearest_trajectory(trajectories, grid, t)
        for token, centre in enumerate(centres_of(grid)):
            inside = (min(max(centre[0], 0), width - 1), min(max(centre[1], 0), height - 1))
            far = distances(trajectories, inside, t)
            # Both ends are rounded to pixels; OpenCV's 5x5 distance is 2 % off.
            assert far[int(nearest[token])] <= 1.03 * min(far.values()) + 3


def test_all_silenced_or_nothing_searched_gives_none() -> None:
    grid = TokenGrid(42, 42)
    features = unit_length(torch.rand(FRAMES, 4, grid.rows, grid.cols), dim=1)
    everywhere = Trajectories(
        torch.full((1, FRAMES, 2), 20.0),
        torch.ones(1, FRAMES, dtype=torch.bool),
        torch.zeros(1, dtype=torch.long),
    )
    for pairs, trajectories in (([(0, 1), (1, 2)], everywhere), ([], no_trajectories())):
        found = find_best_buddies(features, grid, pairs, trajectories, BestBuddySettings())
        assert len(found) == 0
        assert found.frames.shape == found.tokens.shape == (0, 2)
        assert found.cosine.shape == found.ambiguity.shape == (0,)


def test_pairs_are_all_or_a_repeatable_choice() -> None:
    every = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert choose_pairs(4, 0, seed=0) == every
    assert choose_pairs(4, 6, seed=0) == choose_pairs(4, 100, seed=0) == every
    some = choose_pairs(30, 50, seed=1)
    assert len(set(some)) == 50
    assert some == sorted(some)
    assert set(some) <= set(choose_pairs(30, 0, seed=0))
    assert some == choose_pairs(30, 50, seed=1) != choose_pairs(30, 50, seed=2)
    assert choose_pairs(1, 5, seed=0) == []
