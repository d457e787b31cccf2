"""Patches found again where a known warp put them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.registration import (
    COARSEST,
    Pyramid,
    Registration,
    build_pyramid,
    build_templates,
    register,
)
from dino_tracker_ros.tracking.settings import RegistrationSettings

OPTIONS = RegistrationSettings(longest_side=4096, radius=10, likeness=0.85)
CENTRE = torch.tensor([150.0, 110.0])
SHIFT = torch.tensor([7.3, -4.6])
SLOPE = torch.tensor([[1.08, -0.10], [0.06, 0.94]])


pytestmark = pytest.mark.usefixtures("one_thread")


def moved(points: Tensor, slope: Tensor = SLOPE) -> Tensor:
    """Where points of the first picture are in the second."""
    return (points - CENTRE) @ slope.T + CENTRE + SHIFT


def texture(height: int = 220, width: int = 300, seed: int = 0) -> Tensor:
    """Smooth random waves of many directions, as a function of the place: [H, W] in 0..255."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return waves(torch.stack([x, y], dim=-1), seed)


def waves(places: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(2, 40, generator=generator) / 4
    phase = 6.3 * torch.rand(40, generator=generator)
    height = torch.sin(places @ direction + phase).mean(dim=-1)
    return (110 + 280 * height).clamp(0, 255)


def warped_texture(slope: Tensor, gain: float, offset: float, seed: int = 0) -> Tensor:
    y, x = torch.meshgrid(torch.arange(220.0), torch.arange(300.0), indexing="ij")
    places = torch.stack([x, y], dim=-1)
    source = (places - CENTRE - SHIFT) @ slope.inverse().T + CENTRE
    return gain * waves(source, seed) + offset


def pyramid_of(*pictures: Tensor) -> Pyramid:
    rounded = torch.stack([picture.round().clamp(0, 255).to(torch.uint8) for picture in pictures])
    return build_pyramid(rounded[:, None].expand(-1, 3, -1, -1), OPTIONS.longest_side)


def queries_on(count: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return CENTRE + 120 * (torch.rand(count, 2, generator=generator) - 0.5)


def found_in_second(
    pyramid: Pyramid,
    queries: Tensor,
    start: Tensor,
    settings: RegistrationSettings = OPTIONS,
    affine: Tensor | None = None,
    coarsest: int = COARSEST,
) -> Registration:
    """Patches of the first frame, registered in the second: [N, 1] of everything."""
    count = len(queries)
    templates = build_templates(pyramid, torch.zeros(count).long(), queries, settings.radius)
    second = replace(pyramid, levels=[level[1:2] for level in pyramid.levels])
    warp = torch.eye(2) if affine is None else affine
    return register(
        second, templates, start[:, None], warp.expand(count, 1, 2, 2),
        torch.ones(count, 1).bool(), coarsest, settings.reach, settings,
    )  # fmt: skip


def around(radius: float, count: int) -> Tensor:
    """Offsets of one length, in all directions."""
    angle = torch.arange(count) * 2.4
    return radius * torch.stack([angle.cos(), angle.sin()], dim=-1)


@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (0.6, 40.0), (1.2, -30.0)])
def test_a_warped_brighter_texture_is_found_to_a_twentieth_of_a_pixel(
    gain: float, offset: float
) -> None:
    pyramid = pyramid_of(texture(), warped_texture(SLOPE, gain, offset))
    queries = queries_on()
    truth = moved(queries)
    result = found_in_second(pyramid, queries, truth + around(5.0, len(queries)))
    error = (result.points[:, 0] - truth).norm(dim=-1)
    assert result.found.all(), result.likeness
    assert error.max() < 0.05, error
    assert (result.likeness > 0.99).all()


def test_a_photograph_is_found_where_it_was_moved_to(photo: NDArray[np.uint8]) -> None:
    picture = torch.from_numpy(photo[:220, 100:400].copy()).permute(2, 0, 1).float()
    y, x = torch.meshgrid(torch.arange(220.0), torch.arange(300.0), indexing="ij")
    source = (torch.stack([x, y], dim=-1) - CENTRE - SHIFT) @ SLOPE.inverse().T + CENTRE
    grid = 2 * source / torch.tensor([299.0, 219.0]) - 1
    second = F.grid_sample(picture[None], grid[None], mode="bicubic", align_corners=True)[0]
    frames = torch.stack([picture, 0.8 * second + 20]).round().clamp(0, 255).to(torch.uint8)
    queries = torch.tensor([[150.0, 100.0], [125.0, 125.0], [110.0, 60.0], [170.0, 130.0]])
    truth = moved(queries)
    result = found_in_second(build_pyramid(frames, 4096), queries, truth + around(5.0, 4))
    error = (result.points[:, 0] - truth).norm(dim=-1)
    assert result.found.all(), result.likeness
    assert error.max() < 0.1, error


def test_a_known_deformation_helps_to_find_a_strong_one() -> None:
    """Half a turn is out of reach without being told of it."""
    turn = torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    pyramid = pyramid_of(texture(), warped_texture(turn, 1.0, 0.0))
    queries = queries_on(6) * 0.3 + CENTRE * 0.7
    truth = moved(queries, turn)
    start = truth + around(2.0, 6)
    assert found_in_second(pyramid, queries, start).found.sum() <= 1
    result = found_in_second(pyramid, queries, start, affine=turn)
    assert result.found.all()
    assert (result.points[:, 0] - truth).norm(dim=-1).max() < 0.05


def test_a_finer_start_sees_less_far() -> None:
    pyramid = pyramid_of(texture(), warped_texture(SLOPE, 1.0, 0.0))
    queries = queries_on()
    truth = moved(queries)
    caught = {}
    for level in (0, COARSEST):
        near = found_in_second(pyramid, queries, truth + around(1.0, 12), coarsest=level)
        assert near.found.all()
        assert (near.points[:, 0] - truth).norm(dim=-1).max() < 0.05
        far = found_in_second(pyramid, queries, truth + around(7.0, 12), coarsest=level)
        caught[level] = int(((far.points[:, 0] - truth).norm(dim=-1) < 0.5).sum())
    assert caught[COARSEST] > caught[0] + 3, caught


def test_what_is_not_the_patch_is_refused() -> None:
    plain = torch.full((220, 300), 90.0)
    gray_noise = plain + 0.8 * torch.randn(220, 300, generator=torch.Generator().manual_seed(0))
    same, foreign = texture(), texture(seed=9)
    queries = queries_on()
    cases = {
        "flat in both": (gray_noise, gray_noise),
        "flat where it is looked for": (same, plain),
        "flat where it comes from": (plain, same),
        "another texture": (same, foreign),
    }
    for name, pictures in cases.items():
        result = found_in_second(pyramid_of(*pictures), queries, queries.clone())
        assert result.found.float().mean() < 0.1, name
        lost = ~result.found[:, 0]
        assert torch.equal(result.points[lost, 0], queries[lost]), name
        assert result.points.isfinite().all() and result.likeness.isfinite().all(), name


def test_what_is_out_of_reach_is_refused() -> None:
    pyramid = pyramid_of(texture(), texture())
    queries = queries_on()
    start = queries + around(4.0, len(queries))
    assert found_in_second(pyramid, queries, start, replace(OPTIONS, reach=4.5)).found.all()
    result = found_in_second(pyramid, queries, start, replace(OPTIONS, reach=3.5))
    assert not result.found.any()
    assert torch.equal(result.points[:, 0], start)
    # It was seen all the same.
    assert (result.likeness > 0.99).all()


def test_only_what_is_wanted_is_looked_for() -> None:
    pyramid = pyramid_of(texture(), texture(), texture())
    queries = queries_on(4)
    templates = build_templates(pyramid, torch.zeros(4).long(), queries, OPTIONS.radius)
    wanted = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    start = queries[:, None].repeat(1, 3, 1)
    affine = torch.eye(2).expand(4, 3, 2, 2)
    for asked in (wanted, torch.zeros_like(wanted)):
        result = register(pyramid, templates, start, affine, asked, COARSEST, 16.0, OPTIONS)
        assert torch.equal(result.found, asked)


def test_a_batch_is_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pyramid = pyramid_of(texture(), warped_texture(SLOPE, 0.9, 5.0))
    queries = queries_on(7)
    start = moved(queries) + around(4.0, 7)
    whole = found_in_second(pyramid, queries, start)
    monkeypatch.setattr("dino_tracker_ros.tracking.registration.BATCH", 3)
    parts = [found_in_second(pyramid, queries, start)]
    parts += [
        found_in_second(pyramid, queries[k : k + 1], start[k : k + 1]) for k in range(len(queries))
    ]
    for rows, part in zip([slice(None), *(slice(k, k + 1) for k in range(7))], parts, strict=True):
        torch.testing.assert_close(part.points, whole.points[rows], atol=1e-3, rtol=0)
        torch.testing.assert_close(part.likeness, whole.likeness[rows], atol=1e-4, rtol=0)
        assert torch.equal(part.found, whole.found[rows])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 40), (17, 4)])
def test_tiny_pictures_are_survived(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    pyramid = build_pyramid(images, 640)
    corner = torch.tensor([width - 1.0, height - 1.0])
    queries = torch.stack([torch.zeros(2), corner, corner / 2, torch.full((2,), -0.5)])
    result = found_in_second(pyramid, queries, queries)
    assert result.points.isfinite().all() and result.likeness.isfinite().all()


def test_positions_that_are_no_numbers_are_refused() -> None:
    pyramid = pyramid_of(texture(), texture())
    queries = queries_on(3)
    start = queries.clone()
    start[1] = torch.nan
    assert found_in_second(pyramid, queries, start).found[:, 0].tolist() == [True, False, True]


@pytest.mark.parametrize("longest", [100, 75, 640])
def test_a_smaller_picture_keeps_its_places(longest: int) -> None:
    """A bright spot stays on its pixel through shrinking and on every level."""
    images = torch.zeros(1, 3, 150, 200, dtype=torch.uint8)
    y, x = torch.meshgrid(torch.arange(150.0), torch.arange(200.0), indexing="ij")
    spot = torch.tensor([96.0, 56.0])
    hill = 250 * torch.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * 8.0**2))
    images[:] = hill.to(torch.uint8)
    pyramid = build_pyramid(images, longest)
    assert max(pyramid.levels[0].shape) == min(longest, 200)
    place = pyramid.to_picture(spot)
    torch.testing.assert_close(pyramid.to_working(place), spot)
    for number, level in enumerate(pyramid.levels):
        rows, cols = (torch.arange(float(side)) for side in level.shape[1:])
        v, u = torch.meshgrid(rows, cols, indexing="ij")
        middle = torch.stack([(level[0] * u).sum(), (level[0] * v).sum()]) / level[0].sum()
        torch.testing.assert_close(middle, place / 2**number, atol=0.1, rtol=0)


def test_of_two_registrations_the_better_one_counts() -> None:
    a = Registration(
        torch.zeros(1, 4, 2), torch.zeros(1, 4, 2, 2), torch.tensor([[0.9, 0.9, 0.9, 0.2]]),
        torch.tensor([[True, True, False, False]]),
    )  # fmt: skip
    b = Registration(
        torch.ones(1, 4, 2), torch.ones(1, 4, 2, 2), torch.tensor([[0.95, 0.5, 0.86, 0.9]]),
        torch.tensor([[True, True, True, False]]),
    )  # fmt: skip
    both = a.merged(b)
    assert both.points[0, :, 0].tolist() == [1, 0, 1, 0]
    assert both.affine[0, :, 0, 1].tolist() == [1, 0, 1, 0]
    assert both.likeness[0].tolist() == pytest.approx([0.95, 0.9, 0.86, 0.2])
    assert both.found[0].tolist() == [True, True, True, False]
