"""What an iteration draws: only what exists, in the shares that are asked for."""

from __future__ import annotations

import pytest
import torch

from dino_tracker_ros.tracking import sampling
from dino_tracker_ros.tracking.best_buddies import BestBuddies
from dino_tracker_ros.tracking.sampling import (
    draw,
    draw_shares,
    index_by_pair,
    sample_buddies,
    sample_flow,
    sample_points,
)
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import Trajectories


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_only_true_entries_are_drawn_and_all_of_them_alike(generator: torch.Generator) -> None:
    mask = torch.rand(5, 40, generator=generator) < 0.3
    mask[1] = False
    mask[1, 39] = True
    mask[2] = True
    mask[3] = False
    mask[3, 0] = True
    index, total = draw(mask, 6000, generator)
    assert index.shape == (5, 6000)
    assert total.tolist() == mask.sum(dim=1).tolist()
    for row in range(5):
        assert mask[row, index[row]].all()
        counts = torch.bincount(index[row], minlength=40)[mask[row]]
        expected = 6000 / int(total[row])
        assert (counts - expected).abs().max() < 6 * expected**0.5


def test_an_empty_row_gives_indices_that_can_be_read(generator: torch.Generator) -> None:
    index, total = draw(torch.zeros(2, 7, dtype=torch.bool), 5, generator)
    assert total.tolist() == [0, 0]
    assert ((index >= 0) & (index < 7)).all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_shares_are_kept(generator: torch.Generator, share: float) -> None:
    foreground = torch.rand(3, 200, generator=generator) < 0.2
    index, weight = draw_shares(foreground, ~foreground, 20, share, generator)
    assert index.shape == weight.shape == (3, 20)
    assert foreground.gather(1, index).sum(dim=1).tolist() == [round(20 * share)] * 3
    assert (weight == 1).all()


def test_a_small_set_counts_for_no_more_than_it_holds(generator: torch.Generator) -> None:
    foreground = torch.zeros(2, 100, dtype=torch.bool)
    foreground[0, :3] = True
    _, weight = draw_shares(foreground, ~foreground, 20, 0.5, generator)
    in_foreground = weight[:, :10]
    assert in_foreground[0].tolist() == pytest.approx([0.3] * 10)  # 3 entries, drawn 10 times
    assert float(in_foreground[0].sum()) == pytest.approx(3)
    assert (in_foreground[1] == 0).all()
    assert (weight[:, 10:] == 1).all()


def numbered_trajectories(count: int, frames: int, generator: torch.Generator) -> Trajectories:
    """Trajectory m is at (m, 1000 t + m) in frame t."""
    m = torch.arange(count).float()[:, None].expand(-1, frames)
    t = torch.arange(frames).float()
    points = torch.stack([m, 1000 * t + m], dim=-1)
    valid = torch.rand(count, frames, generator=generator) < 0.5
    return Trajectories(points, valid, torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize("frames", [[4, 1], [0, 3, 2, 5]])
def test_flow_samples_go_between_frames_that_flow_connects(
    generator: torch.Generator, frames: list[int]
) -> None:
    trajectories = numbered_trajectories(300, 6, generator)
    foreground = torch.arange(300) < 150
    chosen = torch.tensor(frames)
    sample = sample_flow(trajectories, foreground, chosen, 120, 0.5, generator)
    count = len(frames)
    assert sample.points.shape == sample.target.shape == (count, 120 // count, 2)
    assert sample.source.shape == sample.weight.shape == (count, 120 // count)
    assert (sample.weight == 1).all()
    for g in range(count):
        sources = sample.source[g].tolist()
        # Every other frame sends as many points here.
        assert sorted(set(sources)) == [s for s in range(count) if s != g]
        assert {sources.count(s) for s in set(sources)} == {120 // count // (count - 1)}
        for source, point, target in zip(sources, sample.points[g], sample.target[g]):
            m = int(point[0])
            assert point[1] == 1000 * frames[source] + m
            assert target.tolist() == [m, 1000 * frames[g] + m]
            assert trajectories.valid[m, frames[source]] and trajectories.valid[m, frames[g]]
    drawn = sample.points[..., 0].long()
    assert foreground[drawn].float().mean() == 0.5


def test_frames_that_no_flow_connects_weigh_nothing(generator: torch.Generator) -> None:
    trajectories = numbered_trajectories(50, 4, generator)
    trajectories.valid[:] = False
    trajectories.valid[:, :2] = True
    everywhere = torch.ones(50, dtype=torch.bool)
    sample = sample_flow(trajectories, everywhere, torch.tensor([0, 1, 3]), 60, 1.0, generator)
    connected = torch.tensor([[True, False], [True, False], [False, False]])
    per_pair = 60 // 6
    assert (sample.weight.view(3, 2, per_pair) > 0).all(dim=-1).equal(connected)


def test_many_trajectories_are_thinned(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MOST_TRAJECTORIES", 16)
    trajectories = numbered_trajectories(500, 3, generator)
    trajectories.valid[:] = True
    foreground = torch.arange(500) < 250
    seen = set()
    for _ in range(20):
        sample = sample_flow(trajectories, foreground, torch.tensor([0, 2]), 100, 0.5, generator)
        drawn = sample.points[..., 0].long()
        assert len(drawn.unique()) <= 16
        here = sample.weight > 0
        assert torch.equal(sample.target[here][:, 0], sample.points[here][:, 0])
        seen.update(drawn.unique().tolist())
    assert len(seen) > 150


def some_buddies() -> BestBuddies:
    """Pairs (0, 1) and (1, 2) have 3 and 40, (0, 2) has none; the token is the number."""
    frames = torch.tensor([[0, 1]] * 3 + [[1, 2]] * 40)
    tokens = torch.arange(43)[:, None].expand(-1, 2)
    return BestBuddies(frames, tokens, torch.ones(43), torch.zeros(43))


PAIRS = [(0, 1), (0, 2), (1, 2)]


def test_best_buddies_are_found_by_their_pair() -> None:
    foreground = torch.zeros(3, 43, dtype=torch.bool)
    foreground[1, :13] = True  # frame 1: numbers 3 to 12 of pair (1, 2)
    table = index_by_pair(some_buddies(), PAIRS, foreground)
    assert table.pairs.tolist() == [list(pair) for pair in PAIRS]
    assert table.count.tolist() == [3, 0, 40]
    assert table.widest == 40
    for first, count, pair in zip(table.first, table.count, PAIRS):
        part = table.buddies.frames[first : first + count]
        assert part.tolist() == [list(pair)] * int(count)
    assert torch.nonzero(table.foreground)[:, 0].tolist() == list(range(3, 13))


def test_best_buddies_are_drawn_from_their_own_pair(generator: torch.Generator) -> None:
    foreground = torch.zeros(3, 43, dtype=torch.bool)
    foreground[1, :13] = True
    table = index_by_pair(some_buddies(), PAIRS, foreground)
    index, weight = sample_buddies(table, torch.tensor([2, 0, 1]), 10, 0.7, generator)
    assert index.shape == weight.shape == (3, 10)
    assert ((index[0] >= 3) & (index[0] < 43)).all()
    assert table.foreground[index[0]].sum() == 7
    assert (weight[0] == 1).all()
    # Pair (0, 1) has no foreground and three of the background, of which three are drawn.
    assert (index[1, 7:] < 3).all()
    assert weight[1].tolist() == [0.0] * 7 + [1.0] * 3
    assert (weight[2] == 0).all()
    assert ((index >= 0) & (index < 43)).all()


def test_no_best_buddies_at_all(generator: torch.Generator) -> None:
    none = torch.zeros(0, 2, dtype=torch.long)
    buddies = BestBuddies(none, none, torch.zeros(0), torch.zeros(0))
    table = index_by_pair(buddies, PAIRS, torch.zeros(3, 9, dtype=torch.bool))
    assert table.count.tolist() == [0, 0, 0]
    index, weight = sample_buddies(table, torch.tensor([1, 2]), 6, 0.7, generator)
    assert index.shape == (2, 6)
    assert (weight == 0).all()


@pytest.mark.parametrize(("height", "width"), [(70, 98), (16, 17), (1, 1)])
def test_random_points_lie_in_the_picture_and_mostly_on_the_object(
    generator: torch.Generator, height: int, width: int
) -> None:
    grid = TokenGrid(height, width)
    foreground = torch.zeros(2, grid.rows * grid.cols, dtype=torch.bool)
    foreground[0, 0] = True
    points = sample_points(foreground, 200, 0.7, grid, generator)
    assert points.shape == (2, 200, 2)
    assert ((points >= 0) & (points <= torch.tensor([width - 1, height - 1]))).all()
    # Half a token to each side of the first one's centre.
    near = (points[0] <= grid.offset + grid.stride / 2).all(dim=1)
    assert near[:140].all()
    if width > 20:
        assert not near[140:].any()
        # Without an object, anywhere.
        assert points[1].std(dim=0).min() > 15


def test_the_generator_alone_decides() -> None:
    grid = TokenGrid(70, 98)
    foreground = torch.rand(2, grid.rows * grid.cols) < 0.5

    def points(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample_points(foreground, 30, 0.7, grid, generator)

    assert torch.equal(points(0), points(0))
    assert not torch.equal(points(0), points(1))
