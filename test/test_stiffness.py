"""How stiff things are, told by the share of frames in which patches were found."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking import stiffness as stiffness_module
from dino_tracker_ros.tracking.stiffness import LIKE_NEIGHBOURS, stiffness

pytestmark = pytest.mark.usefixtures("one_thread")


def two_things(frames: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Twenty points of one thing, of which the first is found in every frame, and twenty of
    another, all of them found throughout; the two change places in the last frame."""
    tracks = torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(1)).expand(-1, frames, -1)
    tracks = tracks.clone()
    tracks[:20, :-1] += 500.0
    tracks[20:, -1] += 500.0
    seen = torch.zeros(40, frames).bool()
    seen[:, 0] = True
    seen[0], seen[20:] = True, True
    return tracks, seen, torch.zeros(40).long()


def test_it_is_the_share_found_and_of_few_frames_what_neighbours_have() -> None:
    tracks, seen, home = two_things()
    found = stiffness(tracks, seen, home)
    assert torch.equal(found[20:], torch.ones(20))
    few = 5 + LIKE_NEIGHBOURS
    beside = (few * found[1:20] - 1) / LIKE_NEIGHBOURS
    # Most have the point among their sixteen that is found throughout.
    with_it, without = (1 + 15 * 0.2) / 16, 0.2
    near = (beside[:, None] - torch.tensor([with_it, without])).abs()
    assert near.amin(dim=1).max() < 1e-5 and (near.argmin(dim=1) == 0).sum() > 10
    assert found[0] == pytest.approx((5 + LIKE_NEIGHBOURS * with_it) / few)
    # Neighbours are those of the query's frame.
    assert (stiffness(tracks, seen, home + 4)[20:] == 1).all()
    mixed = tracks.clone()
    mixed[20:30, 2] += 500.0
    mixed[10:20, 2] -= 500.0
    assert (stiffness(mixed, seen, home + 2)[20:] < 1).all()


def test_of_many_frames_is_the_points_own() -> None:
    tracks, seen, home = two_things(2000)
    assert stiffness(tracks, seen, home)[0] > 0.99
    assert stiffness(tracks, seen, home)[1:20].max() < 0.01


def test_in_parts_it_is_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stiffness(*two_things())
    monkeypatch.setattr(stiffness_module, "AT_ONCE", 7)
    torch.testing.assert_close(stiffness(*two_things()), whole)
