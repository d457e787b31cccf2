"""Where found neighbours say a point went."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking import consensus as consensus_module
from dino_tracker_ros.tracking.consensus import FEWEST, expect_from_neighbours

SLOPE = torch.tensor([[1.08, -0.15], [0.12, 0.94]])
SHIFT = torch.tensor([23.0, -11.0])
SIZE = torch.tensor([320.0, 240.0])


def scene(count: int = 30, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query frames, query points, tracks and flags of points on one affinely moving surface.

    Frame 1 is moved by the map, frame 2 is frame 0 again."""
    generator = torch.Generator().manual_seed(seed)
    here = torch.rand(count, 2, generator=generator) * SIZE
    there = here @ SLOPE.T + SHIFT
    tracks = torch.stack([here, there, here], dim=1)
    return torch.zeros(count).long(), here, tracks, torch.ones(count, 3).bool()


def first_map(
    home: Tensor, queries: Tensor, tracks: Tensor, found: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Places, slopes and agreement of most neighbours."""
    first, _ = expect_from_neighbours(home, queries, tracks, found)
    return first.points, first.affine, first.agreed


def test_an_affine_motion_is_recovered() -> None:
    home, here, tracks, found = scene()
    truth = tracks.clone()
    lost = torch.arange(0, 30, 5)
    found[lost, 1] = False
    tracks[lost, 1] = 1e3
    places, affine, agreed = first_map(home, here, tracks, found)
    # A point whose neighbours lie on one line or all to one side is told of less exactly.
    assert (places[:, 1] - truth[:, 1]).norm(dim=-1).median() < 0.1
    assert (affine[:, 1] - SLOPE).abs().amax(dim=(1, 2)).median() < 0.005
    assert agreed[:, 1:].all()
    # Nothing is said of the query's own frame.
    assert not agreed[:, 0].any()
    assert torch.equal(places[:, 0], here)


def test_a_surface_that_stands_still_is_found_still_wherever_it_is() -> None:
    home, here, _, found = scene()
    for away in (0.0, 500.0):
        still = (here + away)[:, None].repeat(1, 3, 1)
        places, affine, agreed = first_map(home, here + away, still, found)
        assert agreed[:, 1:].all()
        assert (places - still).abs().max() < 0.05
        assert (affine - torch.eye(2)).abs().max() < 1e-3


def test_every_query_frame_has_its_own_map() -> None:
    home, here, tracks, found = scene()
    home[15:] = 1
    queries = torch.where(home[:, None] == 1, tracks[:, 1], here)
    places, affine, agreed = first_map(home, queries, tracks, found)
    assert (affine[15:, 0] - SLOPE.inverse()).abs().amax(dim=(1, 2)).median() < 5e-3
    assert (affine[:15, 1] - SLOPE).abs().amax(dim=(1, 2)).median() < 5e-3
    assert (places[15:, 0] - here[15:]).norm(dim=-1).median() < 0.1
    assert agreed[15:, 0].all() and not agreed[15:, 1].any()


def test_neighbours_on_another_motion_are_outvoted() -> None:
    home, here, tracks, found = scene(60)
    truth = tracks[:, 1].clone()
    other = torch.arange(60) % 5 == 0
    tracks[other, 1] = here[other] + torch.tensor([-40.0, 35.0])
    places, _, agreed = first_map(home, here, tracks, found)
    error = (places[:, 1] - truth).norm(dim=-1)
    # Where three of eight are strays they may win, or nobody.
    most = agreed[:, 1]
    assert most.float().mean() > 0.6
    assert error[most].median() < 0.1
    assert (error[most] < 3).float().mean() > 0.85
    # Even the strays are told where the surface around them went.
    assert error[most & other].median() < 1


def test_what_the_first_map_leaves_out_is_fitted_by_the_second() -> None:
    """Eleven neighbours around a point go one way, five behind them another."""
    angle = torch.arange(16) * 2.4
    distance = torch.where(torch.arange(16) < 11, 10.0 + 2 * torch.arange(16), 70.0)
    ring = distance[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    here = torch.cat([torch.zeros(1, 2), ring]) + 120
    there = here + torch.where(torch.arange(17)[:, None] < 12, SHIFT, -SHIFT)
    tracks = torch.stack([here, there], dim=1)
    found = torch.ones(17, 2).bool()
    found[0, 1] = False
    first, second = expect_from_neighbours(torch.zeros(17).long(), here, tracks, found)
    assert first.agreed[0, 1] and second.agreed[0, 1]
    assert (first.points[0, 1] - (here[0] + SHIFT)).norm() < 1
    assert (second.points[0, 1] - (here[0] - SHIFT)).norm() < 1
    # A surface alone leaves nothing out.
    home, here, tracks, found = scene()
    _, second = expect_from_neighbours(home, here, tracks, found)
    assert not second.agreed.any()
    assert torch.equal(second.points, tracks)
    assert second.affine.equal(torch.eye(2).expand_as(second.affine))


def test_a_point_never_votes_for_itself() -> None:
    home, here, tracks, found = scene()
    plain = first_map(home, here, tracks, found)
    tracks[7, 1] += torch.tensor([25.0, 60.0])
    moved = first_map(home, here, tracks, found)
    for before, after in zip(plain, moved, strict=True):
        torch.testing.assert_close(before[7], after[7])
    # Its neighbours do hear it.
    assert not torch.equal(plain[0], moved[0])


@pytest.mark.parametrize("others", [0, FEWEST - 1, FEWEST])
def test_fewer_than_four_neighbours_do_not_agree(others: int) -> None:
    home, here, tracks, found = scene(others + 1)
    found[0, 1] = False
    tracks[0, 1] = 77.0
    places, affine, agreed = first_map(home, here, tracks, found)
    assert bool(agreed[0, 1]) == (others >= FEWEST)
    if others < FEWEST:
        assert torch.equal(places[0, 1], tracks[0, 1])
        assert torch.equal(affine[0, 1], torch.eye(2))
    # Those that were found have a neighbour less: themselves.
    assert not agreed[1:, 1].any()


def test_neighbours_that_contradict_each_other_do_not_agree() -> None:
    home, here, tracks, found = scene()
    generator = torch.Generator().manual_seed(1)
    tracks[:, 1] = torch.rand(30, 2, generator=generator) * SIZE
    _, _, agreed = first_map(home, here, tracks, found)
    assert agreed[:, 1].float().mean() < 0.2
    assert agreed[:, 2].all()


def test_neighbours_in_one_place_or_on_one_line_are_survived() -> None:
    home, here, _, found = scene(12)
    for flat in (torch.zeros(12, 2), here * torch.tensor([1.0, 0.0])):
        still = flat[:, None].repeat(1, 3, 1)
        places, affine, agreed = first_map(home, flat, still, found)
        assert places.isfinite().all() and affine.isfinite().all()
        assert (places - still).abs().max() < 0.5
        assert agreed[:, 1:].all()


def test_parts_of_many_frames_are_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points of three query frames, seven at a time, so that a part holds more than one frame."""
    _, _, tracks, found = scene()
    home = torch.arange(30) % 3
    queries = tracks[torch.arange(30), home]
    found[::4, 1] = False
    together = expect_from_neighbours(home, queries, tracks, found)
    monkeypatch.setattr(consensus_module, "AT_ONCE", {"cpu": 7})
    parts = expect_from_neighbours(home, queries, tracks, found)
    assert together[0].agreed.float().mean() > 0.6
    for one, other in zip(together, parts, strict=True):
        torch.testing.assert_close(other.points, one.points, atol=1e-3, rtol=0)
        torch.testing.assert_close(other.affine, one.affine, atol=1e-4, rtol=0)
        assert torch.equal(other.agreed, one.agreed)
