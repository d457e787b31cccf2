"""The motion that pictures tell, and flow where they tell none."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dino_tracker_ros.tracking.direct_motion import direct_motion, levels_of
from dino_tracker_ros.tracking.steadied import (
    SMALLEST,
    Layer,
    compared,
    dominant,
    half_gray,
    steadied,
)
from dino_tracker_ros.tracking.trajectories import FlowPair

Place = tuple[int, int]
"""Upper left corner, x and y px."""
HEIGHT, WIDTH = 192, 256
POSTERS = ((20, 20), (200, 30), (30, 150), (210, 150))
THING = (120, 90)
CROWD = (THING, (80, 20), (140, 20), (85, 150), (145, 150), (20, 85), (205, 90))
SIDE = 34


def _texture(seed: int) -> NDArray[np.float32]:
    rough = np.random.default_rng(seed).uniform(0, 255, (SIDE, SIDE)).astype(np.float32)
    return cv2.GaussianBlur(rough, (0, 0), 3) * 6 - 637


def _room(
    wall: tuple[float, float],
    thing: tuple[float, float],
    noise: float,
    things: Sequence[Place] = (THING,),
) -> torch.Tensor:
    """A plain wall with posters, moved by `wall` px, and things before it, moved by `thing`:
    uint8 [3, H, W]."""
    picture = np.full((HEIGHT, WIDTH), 140.0, np.float32)
    for seed, (x, y) in enumerate(POSTERS):
        picture[y : y + SIDE, x : x + SIDE] = _texture(seed)
    picture = _moved(picture, wall, cv2.BORDER_REPLICATE)
    front = np.full((HEIGHT, WIDTH), np.nan, np.float32)
    for seed, (x, y) in enumerate(things):
        front[y : y + SIDE, x : x + SIDE] = _texture(9 + seed)
    front = _moved(front, thing, cv2.BORDER_REPLICATE)
    picture = np.where(np.isnan(front), picture, front)
    picture = (
        picture + np.random.default_rng(int(10 * sum(wall))).normal(size=picture.shape) * noise
    )
    gray = torch.from_numpy(picture.clip(0, 255).astype(np.uint8))
    return gray.expand(3, -1, -1).contiguous()


def _moved(
    picture: NDArray[np.float32], by: tuple[float, float], border: int
) -> NDArray[np.float32]:
    shift = np.array([[1, 0, by[0]], [0, 1, by[1]]], np.float32)
    return cv2.warpAffine(picture, shift, (WIDTH, HEIGHT), borderMode=border)


def _constant(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y]).view(2, 1, 1).expand(2, HEIGHT, WIDTH).contiguous()


def _wild(seed: int) -> torch.Tensor:
    """What an estimator may fill in where nothing is to be seen."""
    return 4 * torch.randn(2, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def _true_where_seen(
    wall: tuple[float, float],
    thing: tuple[float, float],
    seed: int,
    sign: int,
    things: Sequence[Place] = (THING,),
) -> torch.Tensor:
    """Flow that is right on posters and things, sign 1 from the first picture, -1 from the second,
    and wild on the wall."""
    flow = _wild(seed)
    places = [(*at, wall) for at in POSTERS] + [(*at, thing) for at in things]
    for x, y, step in places:
        at_x, at_y = (x, y) if sign > 0 else (round(x + step[0]), round(y + step[1]))
        box = slice(at_y - 3, at_y + SIDE + 3), slice(at_x - 3, at_x + SIDE + 3)
        flow[(slice(None), *box)] = sign * torch.tensor(step).view(2, 1, 1)
    return flow


def _steadied(
    first: torch.Tensor, second: torch.Tensor, flow: FlowPair, before: Layer | None = None
) -> tuple[FlowPair, Layer | None]:
    here, there = (half_gray(image.permute(1, 2, 0).numpy()) for image in (first, second))
    pair = compared(here, there, flow)
    found = None if pair is None else dominant(pair, before)
    if pair is None or found is None:
        return flow, None
    return steadied(flow, pair, found), found.layer()


def _on_wall(things: Sequence[Place] = (THING,), away: int = 16) -> NDArray[np.bool_]:
    """bool [H, W], well away from everything else."""
    free = np.ones((HEIGHT, WIDTH), bool)
    for x, y in (*POSTERS, *things):
        free[max(0, y - away) : y + SIDE + away, max(0, x - away) : x + SIDE + away] = False
    free[:8] = free[-8:] = free[:, :8] = free[:, -8:] = False
    return free


def test_motion_is_that_of_most_of_the_picture() -> None:
    first, second = (_room(wall, thing, 1.0)[0].numpy().astype(np.float32)
                     for wall, thing in (((0, 0), (0, 0)), ((2.5, -1.5), (-6, 3))))  # fmt: skip
    found = direct_motion(levels_of(first), levels_of(second), [np.eye(3)], 2.0)
    assert found is not None
    corners = np.array([[20, 20, 1], [230, 20, 1], [20, 170, 1], [230, 170, 1.0]]).T
    led = found @ corners
    np.testing.assert_allclose((led[:2] / led[2] - corners[:2]).T, [[2.5, -1.5]] * 4, atol=0.25)


def test_no_edges_tell_no_motion() -> None:
    plain = np.full((HEIGHT, WIDTH), 99, np.float32)
    assert direct_motion(levels_of(plain), levels_of(plain), [np.eye(3)], 0.0) is None


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_a_plain_wall_goes_along_with_its_posters(noise: float) -> None:
    wall, thing = (2.0, -1.0), (-4.0, 3.0)
    flow = tuple(_true_where_seen(wall, thing, seed, sign) for seed, sign in ((1, 1), (2, -1)))
    (there, back), _ = _steadied(
        _room((0, 0), (0, 0), noise), _room(wall, thing, noise), (flow[0], flow[1])
    )
    free = torch.from_numpy(_on_wall())
    for found, sign in ((there, 1), (back, -1)):
        right = torch.tensor(wall).view(2, 1, 1) * sign
        missed = (found - right).norm(dim=0)[free]
        assert missed.median() < 0.1
        assert (missed < 0.3).float().mean() > 0.95


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_what_is_seen_to_move_keeps_its_flow(noise: float) -> None:
    wall, thing = (0.0, 0.0), (-4.0, 3.0)
    flow = tuple(_true_where_seen(wall, thing, seed, sign) for seed, sign in ((1, 1), (2, -1)))
    (there, _), _ = _steadied(
        _room((0, 0), (0, 0), noise), _room(wall, thing, noise), (flow[0], flow[1])
    )
    x, y = THING
    inner = there[:, y + 4 : y + SIDE - 4, x + 4 : x + SIDE - 4]
    kept = (inner - torch.tensor(thing).view(2, 1, 1)).norm(dim=0) < 0.1
    assert kept.float().mean() > 0.95


@pytest.mark.parametrize("known", [True, False])
def test_a_wall_that_is_known_goes_on_while_more_passes_than_is_seen_of_it(known: bool) -> None:
    wall, thing, noise = (2.0, -1.0), (-4.0, 3.0), 1.0
    first, second = (_true_where_seen(wall, thing, seed, s) for seed, s in ((1, 1), (2, -1)))
    _, layer = _steadied(_room((0, 0), (0, 0), noise), _room(wall, thing, noise), (first, second))
    assert layer is not None
    crowded = tuple(_true_where_seen(wall, thing, seed, s, CROWD) for seed, s in ((3, 1), (4, -1)))
    here = _room(wall, (0, 0), noise, CROWD)
    there = _room((4.0, -2.0), thing, noise, CROWD)
    flow = (crowded[0], crowded[1])
    (found, _), _ = _steadied(here, there, flow, layer if known else None)
    on_wall = torch.from_numpy(_on_wall(CROWD, away=10))
    missed = (found - torch.tensor(wall).view(2, 1, 1)).norm(dim=0)[on_wall]
    if known:
        assert (missed < 0.3).float().mean() > 0.95
    else:  # what passes has more edges
        assert (missed < 0.3).float().mean() < 0.1


def test_without_a_dominant_motion_flow_is_as_it_was() -> None:
    """Each quarter of a textured picture goes its own way."""
    rough = np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH)).astype(np.float32)
    first = (cv2.GaussianBlur(rough, (0, 0), 1.5) * 2 - 128).clip(0, 255).astype(np.float32)
    second, y, x = first.copy(), HEIGHT // 2, WIDTH // 2
    steps = {(0, 0): (5, 0), (0, x): (-5, 4), (y, 0): (0, -6), (y, x): (-3, 6)}
    for (top, left), by in steps.items():
        part = slice(top, top + y), slice(left, left + x)
        second[part] = _moved(first, by, cv2.BORDER_REFLECT)[part]
    images = [
        torch.from_numpy(each.astype(np.uint8)).expand(3, -1, -1).contiguous()
        for each in (first, second)
    ]
    flow = _wild(3), _wild(4)
    (there, back), layer = _steadied(images[0], images[1], flow)
    assert layer is None
    assert torch.equal(there, flow[0])
    assert torch.equal(back, flow[1])


@pytest.mark.parametrize("image", ["plain", "small"])
def test_pictures_that_tell_nothing_leave_flow_alone(image: str) -> None:
    side = SMALLEST - 1 if image == "small" else SMALLEST
    plain = torch.full((3, side, side), 77, dtype=torch.uint8)
    flow = torch.randn(2, side, side), torch.randn(2, side, side)
    (there, back), _ = _steadied(plain, plain, flow)
    assert torch.equal(there, flow[0])
    assert torch.equal(back, flow[1])


def test_it_is_the_same_each_time_and_brightness_is_nothing() -> None:
    first, second = _room((0, 0), (0, 0), 1.0), _room((2, -1), (-4, 3), 1.0)
    flow = _constant(0, 0), _constant(0, 0)
    (once, _), (again, _) = (_steadied(first, second, flow) for _ in range(2))
    assert torch.equal(once[0], again[0])
    brighter = (second.int() + 12).clamp(max=255).to(torch.uint8)
    (lit, _), _ = _steadied(first, brighter, flow)
    free = torch.from_numpy(_on_wall())
    assert (lit - once[0]).norm(dim=0)[free].median() < 0.2
