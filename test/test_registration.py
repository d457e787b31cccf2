"""Patches found again where a known warp put them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking import pyramid as pyramid_module
from dino_tracker_ros.tracking import warps
from dino_tracker_ros.tracking.pyramid import COARSEST, Pyramid, build_pyramid
from dino_tracker_ros.tracking.registration import Patches, Registration, register
from dino_tracker_ros.tracking.settings import RegistrationSettings
from dino_tracker_ros.tracking.templates import Template, build_templates

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
    vouched: float = 0.0,
) -> Patches:
    """Patches of the first frame, registered in the second."""
    count = len(queries)
    templates = build_templates(pyramid, torch.zeros(count).long(), queries, settings.radius)
    warp = torch.eye(2) if affine is None else affine
    rows = torch.arange(count)
    return register(
        pyramid, templates, rows, torch.ones_like(rows), start, warp.expand(count, 2, 2),
        coarsest, settings.reach, settings, vouched,
    )  # fmt: skip


def noisy(picture: Tensor, spread: float) -> Tensor:
    """With noise of this standard deviation in every pixel."""
    generator = torch.Generator().manual_seed(1)
    return picture + spread * torch.randn(picture.shape, generator=generator)


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
    error = (result.points - truth).norm(dim=-1)
    assert result.found.all(), result.error
    assert error.max() < 0.05, error
    assert result.error.max() < 0.1


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
    error = (result.points - truth).norm(dim=-1)
    assert result.found.all(), result.error
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
    assert (result.points - truth).norm(dim=-1).max() < 0.05


@pytest.mark.parametrize("scale", [0.35, 0.5, 0.8, 1.5, 2.0, 3.2])
def test_a_patch_may_grow_and_shrink_several_times(scale: float) -> None:
    """As it does step by step while the camera comes nearer or goes away."""
    slope = scale * torch.eye(2)
    pyramid = pyramid_of(texture(), warped_texture(slope, 1.0, 0.0))
    queries = queries_on() * 0.3 + CENTRE * 0.7
    truth = moved(queries, slope)
    start = truth + around(3.0, len(queries))
    result = found_in_second(pyramid, queries, start, affine=0.93 * slope)
    assert result.found.all(), result.error
    # To a tenth of a pixel of the picture that shows less.
    assert (result.points - truth).norm(dim=-1).max() < 0.1 * max(1.0, scale)
    torch.testing.assert_close(result.affine, slope.expand(12, 2, 2), atol=0.03 * scale, rtol=0)


def test_a_faint_patch_is_found() -> None:
    """One or two gray values from the mean, as on a wall in the shade."""
    faint = 120 + 0.06 * (texture() - 110), 120 + 0.06 * (warped_texture(SLOPE, 1.0, 0.0) - 110)
    queries = queries_on()
    truth = moved(queries)
    pyramid = pyramid_of(*faint)
    templates = build_templates(pyramid, torch.zeros(12).long(), queries, OPTIONS.radius)
    contrast = templates[0].contrast[:, 0]
    assert contrast.max() < 2 and (contrast > 1).sum() >= 10
    result = found_in_second(pyramid, queries, truth + around(5.0, 12))
    assert torch.equal(result.found, contrast > 1), result.error
    assert (result.points - truth).norm(dim=-1)[result.found].max() < 0.3


def test_a_finer_start_sees_less_far() -> None:
    pyramid = pyramid_of(texture(), warped_texture(SLOPE, 1.0, 0.0))
    queries = queries_on()
    truth = moved(queries)
    caught = {}
    for level in (0, COARSEST):
        near = found_in_second(pyramid, queries, truth + around(1.0, 12), coarsest=level)
        assert near.found.all()
        assert (near.points - truth).norm(dim=-1).max() < 0.05
        far = found_in_second(pyramid, queries, truth + around(7.0, 12), coarsest=level)
        caught[level] = int(((far.points - truth).norm(dim=-1) < 0.5).sum())
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
        lost = ~result.found
        assert torch.equal(result.points[lost], queries[lost]), name
        assert result.points.isfinite().all() and not result.error.isnan().any(), name


def test_what_blur_and_noise_hide_is_judged_on_a_coarser_level() -> None:
    """At full sharpness no patch is alike enough, and on the coarser level its place less sure."""
    queries = queries_on()
    truth = moved(queries)
    start = truth + around(5.0, len(queries))
    pyramid = pyramid_of(texture(), noisy(warped_texture(SLOPE, 1.0, 0.0), 45.0))
    result = found_in_second(pyramid, queries, start)
    assert result.found.all()
    sharp = found_in_second(
        pyramid_of(texture(), warped_texture(SLOPE, 1.0, 0.0)), queries, start
    )
    assert (result.error > 2 * sharp.error).all()
    # The finest level, where noise is worse, would say more.
    finest = found_in_second(pyramid, queries, start, replace(OPTIONS, likeness=0.0))
    assert (result.error < 0.8 * finest.error).all()
    assert (result.points - truth).norm(dim=-1).max() < 0.5
    # The finest level alone has no coarser one to ask.
    near = truth + around(1.0, len(queries))
    assert not found_in_second(pyramid, queries, near, coarsest=0).found.any()


def test_a_faint_patch_in_noise_need_not_be_as_like_itself() -> None:
    generator = torch.Generator().manual_seed(2)
    grain = torch.randn(4, 1, 220, 300, generator=generator)
    # As compression leaves it: halving the picture does not take it away.
    grain = 5 * (grain + 2 * F.avg_pool2d(grain, 3, stride=1, padding=1))[:, 0]
    same, other = 120 + (texture() - 110) / 4, 120 + (texture(seed=9) - 110) / 4
    pictures = [same, same, other, torch.full_like(same, 120.0)]
    plain = pyramid_of(*(p + g for p, g in zip(pictures, grain, strict=True)))
    alone = torch.stack([level[3].std() for level in plain.levels])
    known = replace(plain, noise=alone[:, None].expand(-1, 4))
    queries = queries_on()
    rows = torch.arange(len(queries))
    found = []
    for pyramid in (plain, known):
        templates = build_templates(pyramid, torch.zeros_like(rows), queries, OPTIONS.radius)
        for frame in (1, 2):
            patches = register(
                pyramid, templates, rows, torch.full_like(rows, frame), queries,
                torch.eye(2).expand(len(rows), 2, 2), 0, OPTIONS.reach, OPTIONS,
            )  # fmt: skip
            found.append(patches.found)
            near = (patches.points - queries).norm(dim=-1)
            assert (near[patches.found] < 1.5).all() or frame == 2
    before, nothing_before, now, nothing_now = found
    assert before.float().mean() < 0.2 and now.float().mean() > 0.7
    # Some of another texture is then alike as well.
    assert not nothing_before.any() and nothing_now.float().mean() < 0.25


def test_an_error_grows_with_what_a_fit_leaves_over() -> None:
    queries = queries_on()
    errors = []
    for spread in (0.0, 10.0, 20.0):
        pyramid = pyramid_of(texture(), noisy(texture(), spread))
        errors.append(found_in_second(pyramid, queries, queries.clone()).error)
    assert (errors[0] < 0.02).all()
    ratio = errors[2] / errors[1]
    assert (errors[1] > 3 * errors[0]).all()
    assert 1.7 < ratio.median() < 2.3


def test_a_place_along_an_edge_is_not_sure_however_alike_its_patch() -> None:
    """The same noise on an edge and on its corner; on the edge patches slide along."""
    x = torch.arange(300.0)
    edge = torch.where(x > 150, 200.0, 60.0).expand(220, 300).clone()
    corner = edge.clone()
    corner[110:] = 60.0
    queries = torch.tensor([[150.0, 110.0]] * 12)
    found = {}
    for name, picture in (("edge", edge), ("corner", corner)):
        soft = torch.nn.functional.avg_pool2d(picture[None, None], 3, stride=1, padding=1)[0, 0]
        found[name] = found_in_second(
            pyramid_of(soft, noisy(soft, 2.0)), queries, queries + around(3.0, 12)
        )
        assert found[name].found.all()
    assert (found["edge"].error > 4 * found["corner"].error).all()
    off = (found["edge"].points - queries).abs()
    assert off[:, 1].median() > 5 * off[:, 0].median()
    assert (found["corner"].points - queries).norm(dim=-1).max() < 0.1


def test_a_blurred_patch_is_believed_sooner_where_something_vouches_for_it() -> None:
    queries = queries_on()
    truth = moved(queries)
    pyramid = pyramid_of(texture(), noisy(warped_texture(SLOPE, 1.0, 0.0), 80.0))
    start = truth + around(3.0, len(queries))
    alone = found_in_second(pyramid, queries, start)
    told = found_in_second(pyramid, queries, start, vouched=0.1)
    assert alone.found.sum() < told.found.sum() < len(queries)
    assert (told.found | ~alone.found).all()
    assert (told.points - truth).norm(dim=-1)[told.found].max() < 1.0


def test_no_voucher_makes_another_texture_the_patch() -> None:
    queries = queries_on()
    pyramid = pyramid_of(texture(), noisy(warped_texture(SLOPE, 1.0, 0.0, seed=9), 20.0))
    assert not found_in_second(pyramid, queries, moved(queries), vouched=0.1).found.any()
    # Whatever is asked for: what left its reach was seen nowhere.
    lenient = replace(OPTIONS, likeness=0.0, reach=0.1)
    away = moved(queries) + around(5.0, len(queries))
    same = pyramid_of(texture(), warped_texture(SLOPE, 1.0, 0.0))
    assert not found_in_second(same, queries, away, lenient, vouched=0.1).found.any()


def test_what_is_out_of_reach_is_refused() -> None:
    pyramid = pyramid_of(texture(), texture())
    queries = queries_on()
    start = queries + around(4.0, len(queries))
    assert found_in_second(pyramid, queries, start, replace(OPTIONS, reach=4.5)).found.all()
    result = found_in_second(pyramid, queries, start, replace(OPTIONS, reach=3.5))
    assert not result.found.any()
    assert torch.equal(result.points, start)
    # It was seen all the same.
    assert result.error.max() < 0.1


def test_rows_are_looked_for_in_any_order_each_in_its_own_place() -> None:
    """Some of the templates, one of them twice, where each was sent."""
    pyramid = pyramid_of(texture(), texture(seed=9), warped_texture(SLOPE, 1.0, 0.0))
    queries = queries_on(5)
    templates = build_templates(pyramid, torch.zeros(5).long(), queries, OPTIONS.radius)
    truth = moved(queries)
    rows = torch.tensor([3, 0, 3, 4])
    start = truth[rows] + around(2.0, 4)
    start[2] = truth[1]
    affine = torch.eye(2).repeat(4, 1, 1)
    settings = replace(OPTIONS, reach=5.0)
    last = torch.full_like(rows, 2)
    found = register(pyramid, templates, rows, last, start, affine, COARSEST, 5.0, settings)
    assert torch.equal(found.rows, rows) and torch.equal(found.frames, last)
    assert found.found.tolist() == [True, True, False, True]
    there = found.found
    assert (found.points[there] - truth[rows[there]]).norm(dim=-1).max() < 0.05
    torch.testing.assert_close(found.affine[there], SLOPE.expand(3, 2, 2), atol=0.02, rtol=0)
    assert torch.equal(found.points[2], truth[1]) and torch.equal(found.affine[2], affine[2])
    # What was passed in is as it was.
    assert torch.equal(start[0], truth[3] + around(2.0, 4)[0])
    assert torch.equal(affine, torch.eye(2).expand(4, 2, 2))
    # Another frame shows something else.
    other = register(pyramid, templates, rows, last - 1, start, affine, COARSEST, 5.0, settings)
    assert not other.found.any()


def as_each_alone(
    pyramid: Pyramid,
    templates: Sequence[Template],
    asked: tuple[Tensor, Tensor, Tensor, Tensor],
    coarsest: int,
    tolerance: float,
) -> Patches:
    """Patches registered together, which are found as each is by itself.

    Args:
        asked: rows, frames, starts and warps, see `register`.
        tolerance: of their places, px; a tenth of it of their warps.
    """
    found = register(pyramid, templates, *asked, coarsest, 16.0, OPTIONS)
    for k in range(len(asked[0])):
        one = slice(k, k + 1)
        rows, frames, start, affine = (part[one] for part in asked)
        alone = register(pyramid, templates, rows, frames, start, affine, coarsest, 16.0, OPTIONS)
        for name, far in (("points", tolerance), ("affine", tolerance / 10), ("error", 1e-3)):
            torch.testing.assert_close(
                getattr(found, name)[one], getattr(alone, name), atol=far, rtol=0
            )
    return found


def test_many_frames_at_once_are_as_each_alone() -> None:
    """Frames in any order."""
    pictures = [warped_texture(SLOPE, 1.0, k * 5.0) for k in range(3)]
    pyramid = pyramid_of(texture(), *pictures, texture(seed=9))
    queries = queries_on(5)
    templates = build_templates(pyramid, torch.zeros(5).long(), queries, OPTIONS.radius)
    frames = torch.tensor([3, 3, 1, 1, 1, 4, 4, 2, 2, 2])
    rows = torch.tensor([0, 4, 1, 2, 3, 0, 1, 4, 3, 0])
    start, affine = moved(queries)[rows] + around(2.0, 10), torch.eye(2).repeat(10, 1, 1)
    asked = rows, frames, start, affine
    found = as_each_alone(pyramid, templates, asked, COARSEST, 1e-3)
    assert found.found.tolist() == [frame != 4 for frame in frames.tolist()]


@pytest.mark.parametrize("coarsest", [COARSEST, 0])
def test_patches_of_all_sizes_at_once_are_as_each_alone(coarsest: int) -> None:
    """A frame for each size, sent in no order of sizes."""
    scales = (1.0, 0.3, 2.1, 0.5, 3.6, 1.0)
    slopes = [scale * torch.eye(2) for scale in scales]
    pyramid = pyramid_of(texture(), *(warped_texture(slope, 1.0, 0.0) for slope in slopes))
    queries = queries_on(8) * 0.3 + CENTRE * 0.7
    templates = build_templates(pyramid, torch.zeros(8).long(), queries, OPTIONS.radius)
    frames = torch.arange(1, 7).repeat_interleave(2)
    rows = torch.arange(12) % 8
    affine = torch.stack(slopes)[frames - 1]
    start = torch.stack([moved(queries[row], slopes[frame - 1])
                         for row, frame in zip(rows, frames)]) + around(1.0, 12)  # fmt: skip
    asked = rows, frames, start, affine
    found = as_each_alone(pyramid, templates, asked, coarsest, 2e-3)
    assert found.found.all()


def test_nothing_may_be_looked_for() -> None:
    pyramid = pyramid_of(texture(), texture())
    templates = build_templates(pyramid, torch.zeros(4).long(), queries_on(4), OPTIONS.radius)
    nobody = torch.zeros(0).long()
    found = register(
        pyramid, templates, nobody, nobody, torch.zeros(0, 2), torch.zeros(0, 2, 2), COARSEST, 16.0,
        OPTIONS,
    )  # fmt: skip
    shapes = [tuple(value.shape) for value in vars(found).values()]
    assert shapes == [(0,), (0,), (0, 2), (0, 2, 2), (0,), (0,)]


def test_templates_are_of_the_frame_of_each_query() -> None:
    """Queries of several frames, in any order, as each for itself."""
    pictures = [texture(), texture(seed=9), texture(seed=5)]
    pyramid = pyramid_of(*pictures)
    queries, frames = queries_on(6), torch.tensor([2, 0, 1, 1, 0, 2])
    together = build_templates(pyramid, frames, queries, OPTIONS.radius)
    assert len(together) == COARSEST + 1
    for n in range(6):
        alone = build_templates(pyramid, frames[n : n + 1], queries[n : n + 1], OPTIONS.radius)
        for whole, part in zip(together, alone, strict=True):
            for name in ("values", "contrast", "solver"):
                torch.testing.assert_close(
                    getattr(whole, name)[n], getattr(part, name)[0], atol=1e-4, rtol=1e-4
                )
    for frame in range(3):
        rows = torch.nonzero(frames == frame)[:, 0]
        affine = torch.eye(2).repeat(len(rows), 1, 1)
        found = register(
            pyramid, together, rows, frames[rows], queries[rows], affine, COARSEST, 16.0, OPTIONS
        )
        assert found.found.all() and found.error.max() < 0.02
        assert (found.points - queries[rows]).norm(dim=-1).max() < 0.05


def test_together_is_one_by_one() -> None:
    pyramid = pyramid_of(texture(), warped_texture(SLOPE, 0.9, 5.0))
    queries = queries_on(7)
    start = moved(queries) + around(4.0, 7)
    whole = found_in_second(pyramid, queries, start)
    for k in range(len(queries)):
        part = found_in_second(pyramid, queries[k : k + 1], start[k : k + 1])
        torch.testing.assert_close(part.points, whole.points[k : k + 1], atol=1e-3, rtol=0)
        torch.testing.assert_close(part.error, whole.error[k : k + 1], atol=1e-3, rtol=0)
        assert torch.equal(part.found, whole.found[k : k + 1])


def test_what_does_not_belong_to_the_surface_is_left_out() -> None:
    """Left of an edge the query's surface, right of it another one that goes its own way."""
    edge, shift = 150, torch.tensor([7.0, 3.0])
    first, second = texture(), texture(seed=9).roll(-20, dims=0)
    first[:, edge:] = texture(seed=9)[:, edge:]
    second[:, : edge + 7] = texture().roll((3, 7), dims=(0, 1))[:, : edge + 7]
    pyramid = pyramid_of(first, second)
    queries = torch.tensor([[147.0, y] for y in (60.0, 90.0, 120.0, 150.0)])
    start, rows = queries + shift + around(0.5, 4), torch.arange(4)

    def own(level: int, offsets: Tensor) -> Tensor:
        return (queries[:, :1] + offsets[:, 0] < edge).float()

    found = {}
    for support in (None, own):
        templates = build_templates(
            pyramid, torch.zeros(4).long(), queries, OPTIONS.radius, support
        )
        for template in templates:
            torch.testing.assert_close(template.weight.sum(dim=1), torch.ones(4))
        found[support] = register(
            pyramid, templates, rows, torch.ones_like(rows), start, torch.eye(2).repeat(4, 1, 1), 0,
            6.0, OPTIONS,
        )  # fmt: skip
    assert not found[None].found.any(), found[None].error
    assert found[own].found.all(), found[own].error
    assert (found[own].points - queries - shift).norm(dim=-1).max() < 0.2


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (1, 40), (17, 4)])
def test_tiny_pictures_are_survived(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    pyramid = build_pyramid(images, 640)
    corner = torch.tensor([width - 1.0, height - 1.0])
    queries = torch.stack([torch.zeros(2), corner, corner / 2, torch.full((2,), -0.5)])
    result = found_in_second(pyramid, queries, queries)
    assert result.points.isfinite().all() and not result.error.isnan().any()


def test_positions_that_are_no_numbers_are_refused() -> None:
    pyramid = pyramid_of(texture(), texture())
    queries = queries_on(3)
    start = queries.clone()
    start[1] = torch.nan
    assert found_in_second(pyramid, queries, start).found.tolist() == [True, False, True]


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


def test_what_is_placed_more_surely_is_taken_over() -> None:
    """Five cases in the second of three frames, sent in another order; a sixth is not sent."""
    found_before = torch.tensor([True, True, False, False, True, True])
    error_before = torch.tensor([0.3, 0.3, 0.3, 2.0, 0.3, 0.3])
    seen = Registration(
        torch.zeros(6, 3, 2), torch.zeros(6, 3, 2, 2),
        error_before[:, None].repeat(1, 3), found_before[:, None].repeat(1, 3),
    )  # fmt: skip
    rows = torch.tensor([4, 2, 0, 3, 1])
    error = torch.tensor([0.1, 0.4, 0.2, 0.3, 0.8])
    found = torch.tensor([False, True, True, False, True])
    frames = torch.ones_like(rows)
    seen.improve_(Patches(rows, frames, torch.ones(5, 2), torch.ones(5, 2, 2), error, found))
    # Surer; less sure; found at last; still lost; lost now; not sent.
    assert seen.points[:, 1, 0].tolist() == [1, 0, 1, 0, 0, 0]
    assert seen.affine[:, 1, 0, 1].tolist() == [1, 0, 1, 0, 0, 0]
    assert seen.error[:, 1].tolist() == pytest.approx([0.2, 0.3, 0.4, 2.0, 0.3, 0.3])
    assert seen.found[:, 1].tolist() == [True, True, True, False, True, True]
    # Other frames are as they were.
    for t in (0, 2):
        assert not seen.points[:, t].any() and not seen.affine[:, t].any()
        assert torch.equal(seen.error[:, t], error_before)
        assert torch.equal(seen.found[:, t], found_before)


@pytest.mark.parametrize("frames", [1, 2, 48])
def test_frames_read_as_one_volume_are_frames_read_by_themselves(frames: int) -> None:
    """As a GPU and as a CPU read them, inside and beyond the border."""
    generator = torch.Generator().manual_seed(frames)
    pictures = 255 * torch.rand(frames, 40, 60, generator=generator)
    where = torch.randint(frames, (50,), generator=generator).sort().values
    places = 2.4 * torch.rand(50, 30, 2, generator=generator) - 1.2
    shown = warps.Shown([pictures], [50], where)
    alone = warps._run_reader(shown)(places)
    volume = warps._volume_reader(shown)(places)
    assert alone.shape == (50, 30)
    torch.testing.assert_close(volume, alone, atol=2e-3, rtol=0)
    # The last twenty in pictures of another size.
    small = pictures[:, ::2, ::2].contiguous()
    mixed = warps.Shown([pictures, small], [30, 20], where)
    second = warps._run_reader(warps.Shown([small], [20], where[30:]))(places[30:])
    for read in (warps._run_reader, warps._volume_reader):
        expected = torch.cat([alone[:30], second])
        torch.testing.assert_close(read(mixed)(places), expected, atol=2e-3, rtol=0)


def motion_of(step: Tensor) -> Tensor:
    """As matrices [B, 3, 3]; steps [B, 6] are what is added to the rows (a, b, x), (c, d, y)."""
    motion = torch.eye(3).repeat(len(step), 1, 1)
    motion[:, :2] += step.view(-1, 2, 3)
    return motion


def test_a_step_of_the_template_and_the_step_back_of_the_picture_cancel() -> None:
    generator = torch.Generator().manual_seed(0)
    view = torch.randn(20, 2, 3, generator=generator)
    step = 0.2 * torch.randn(20, 6, generator=generator)
    step[:, [2, 5]] *= 20
    there = warps.moved_back(view, step) @ motion_of(step)
    torch.testing.assert_close(there, view, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (31, 44), (40, 61)])
def test_a_coarser_level_is_every_second_pixel_behind_a_binomial(height: int, width: int) -> None:
    pictures = 255 * torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    wide = F.pad(pictures[:, None], (2, 2, 2, 2), mode="replicate")
    blurred = F.conv2d(wide, torch.outer(taps, taps)[None, None])[:, 0]
    halved = pyramid_module._halved(pictures)
    torch.testing.assert_close(halved, blurred[:, ::2, ::2], atol=1e-3, rtol=0)

