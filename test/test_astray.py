"""How probably a track without its patch is on its point."""

from __future__ import annotations

import torch

from dino_tracker_ros.tracking.astray import in_place


def chance(off: float = 0.0, lead: float = 0.0, stiff: float = 0.1) -> float:
    return float(in_place(torch.tensor([[off]]), torch.tensor([[lead]]), torch.tensor([stiff])))


def test_leaving_the_flow_speaks_against_it() -> None:
    assert chance(0) > 0.9
    assert chance(0) > chance(5) > chance(50) > chance(500)
    assert chance(100) < 0.5


def test_another_place_that_is_as_good_speaks_against_it() -> None:
    assert chance(30, 8) > 0.7
    assert chance(30, 8) > chance(30, 0) > chance(30, -8)


def test_what_bends_has_legs() -> None:
    assert chance(30, stiff=1.0) > 0.8
    assert chance(30, stiff=1.0) > chance(30, stiff=0.3) > chance(30, stiff=0.0) > 0


def test_each_point_is_for_itself() -> None:
    off, lead, stiff = 80 * torch.rand(7, 5), 20 * torch.rand(7, 5) - 10, torch.rand(7)
    together = in_place(off, lead, stiff)
    assert ((together > 0) & (together < 1)).all()
    for n in range(7):
        own = slice(n, n + 1)
        alone = in_place(off[own, n % 5 :], lead[own, n % 5 :], stiff[own])
        torch.testing.assert_close(alone, together[own, n % 5 :])
