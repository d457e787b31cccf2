"""Which surface a query beside an outline is on, and where that one goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking import surfaces as surfaces_module
from dino_tracker_ros.tracking.pyramid import Pyramid, build_pyramid
from dino_tracker_ros.tracking.surfaces import Surfaces, find_surfaces, own_support
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH = 160, 240
EDGE = 120.0  # px, the outline of the left side in frame 0
LEFT, RIGHT = (-4, 1), (1, -2)  # px a frame, (x, y)
BLEED = 8.0  # px that the left side's flow reaches beyond its outline
FRAMES = 9
MIDDLE = FRAMES // 2
OUTLINE = EDGE + LEFT[0] * MIDDLE  # px, in the middle frame

pytestmark = pytest.mark.usefixtures("one_thread")


def texture(seed: int) -> Tensor:
    """Smooth noise, [HEIGHT, WIDTH] in 0..255."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, HEIGHT // 4, WIDTH // 4, generator=generator) * 255
    size = (HEIGHT, WIDTH)
    return torch.nn.functional.interpolate(noise, size, mode="bicubic", antialias=True)[0, 0]


def pictures(left: Tensor, right: Tensor) -> Pyramid:
    """The left side before the right one, both on their way."""
    x = torch.arange(float(WIDTH))
    frames = [
        torch.where(
            x < EDGE + LEFT[0] * t,
            left.roll((LEFT[1] * t, LEFT[0] * t), dims=(0, 1)),
            right.roll((RIGHT[1] * t, RIGHT[0] * t), dims=(0, 1)),
        )
        for t in range(FRAMES)
    ]
    images = torch.stack(frames).round().clamp(0, 255).to(torch.uint8)
    return build_pyramid(images[:, None].expand(-1, 3, -1, -1), WIDTH)


def flows(bleed: float = BLEED) -> list[FlowPair]:
    x = torch.arange(float(WIDTH))[None, None].expand(2, HEIGHT, WIDTH)
    both = torch.tensor([LEFT, RIGHT], dtype=torch.float32)[..., None, None]

    def flow(frame: int, step: int) -> Tensor:
        return step * torch.where(x < EDGE + bleed + LEFT[0] * frame, both[0], both[1])

    return [(flow(t, 1), flow(t + 1, -1)) for t in range(FRAMES - 1)]


SCENE = texture(1), texture(2)


def surfaces(x: float, pyramid: Pyramid | None = None, frame: int = MIDDLE) -> Surfaces:
    pyramid = pictures(*SCENE) if pyramid is None else pyramid
    return find_surfaces(pyramid, flows(), torch.tensor([frame]), torch.tensor([[x, 80.0]]))


def expected(x: float, pace: tuple[int, int], frame: int = MIDDLE) -> Tensor:
    times = torch.arange(float(FRAMES)) - frame
    return torch.tensor([x, 80.0]) + times[:, None] * torch.tensor(pace, dtype=torch.float32)


@pytest.mark.parametrize(
    ("beside", "pace"), [(4.0, RIGHT), (-4.0, LEFT)], ids=["behind the outline", "before it"]
)
def test_a_query_goes_with_its_own_side_though_flow_is_the_others(
    beside: float, pace: tuple[int, int]
) -> None:
    found = surfaces(OUTLINE + beside)
    assert found.parted.all()
    others = torch.arange(FRAMES) != MIDDLE
    truth = expected(OUTLINE + beside, pace)
    assert (found.carried[0] - truth)[others].norm(dim=-1).max() < 0.2
    assert found.carried[0, MIDDLE].isnan().all()  # it is asked for there


def test_a_query_that_has_just_come_out_is_told_by_what_follows() -> None:
    """A frame before, it was hidden: there its own motion shows what hid it."""
    x = EDGE + LEFT[0] * MIDDLE + 2.0
    assert x < EDGE + LEFT[0] * (MIDDLE - 1) - RIGHT[0]
    found = surfaces(x)
    assert found.parted.all()
    later = torch.arange(FRAMES) > MIDDLE
    assert (found.carried[0] - expected(x, RIGHT))[later].norm(dim=-1).max() < 0.2


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_is_across_the_outline_does_not_belong_to_it(level: int) -> None:
    steps = torch.arange(-11.0, 12.0) * 2**level
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([x.flatten(), y.flatten()], dim=-1)
    margin = 4.0 * 2**level  # costs are means over five samples
    for beside in (4.0, -4.0):
        support = own_support(surfaces(OUTLINE + beside), level, offsets)[0]
        side = (offsets[:, 0] + beside) * (1 if beside > 0 else -1)
        near = offsets.norm(dim=1) < 32
        assert support[near & (side > margin)].mean() > 0.9
        assert support[near & (side < -margin)].mean() < 0.1


def test_where_the_picture_does_not_tell_nothing_is_said() -> None:
    flat = torch.full((HEIGHT, WIDTH), 128.0)
    for pyramid in (pictures(flat, flat), pictures(flat, flat + 3)):
        found = surfaces(OUTLINE + 4, pyramid)
        assert found.motions.both.all() and not found.parted.any()
        assert found.carried.isnan().all()
        assert torch.equal(own_support(found, 0, torch.zeros(9, 2)), torch.ones(1, 9))


@pytest.mark.parametrize("plain", [True, False])
def test_on_a_plain_wall_a_query_goes_with_the_dominant_motion(plain: bool) -> None:
    """Something plain, too, passes beside it: no picture tells which of the two it is on."""
    wall = torch.full((HEIGHT, WIDTH), 128.0)
    if not plain:
        wall += torch.arange(HEIGHT)[:, None] / 2  # a slope, too slight to tell two motions apart
    edge = torch.arange(float(WIDTH)) < 70.0
    both = torch.tensor([(-6, 0), RIGHT], dtype=torch.float32)[..., None, None]
    there = torch.where(edge, both[0], both[1]).expand(2, HEIGHT, WIDTH)
    images = wall.to(torch.uint8).expand(FRAMES, 3, -1, -1)
    x = 74.0
    found = find_surfaces(
        build_pyramid(images, WIDTH),
        [(there, -there)] * (FRAMES - 1),
        torch.tensor([0]),
        torch.tensor([[x, 80.0]]),
    )
    assert found.motions.both.all() and not found.parted.any()
    if plain:
        assert (found.carried[0] - expected(x, RIGHT, frame=0))[1:].norm(dim=-1).max() < 0.2
    else:
        assert found.carried.isnan().all()


def test_where_neither_motion_fits_nothing_is_said() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(FRAMES, 1, HEIGHT, WIDTH, generator=generator) * 255
    pyramid = build_pyramid(noise.to(torch.uint8).expand(-1, 3, -1, -1), WIDTH)
    assert not surfaces(OUTLINE + 4, pyramid).parted.any()


@pytest.mark.parametrize(("x", "pace"), [(30.0, LEFT), (200.0, RIGHT)])
def test_away_from_outlines_the_only_motion_carries(x: float, pace: tuple[int, int]) -> None:
    found = surfaces(x)
    assert not found.parted.any()
    others = torch.arange(FRAMES) != MIDDLE
    assert (found.carried[0] - expected(x, pace))[others].norm(dim=-1).max() < 0.2


def test_a_query_is_carried_on_where_all_of_the_picture_leaves() -> None:
    """Flow ends at the border: what goes there has nowhere to come back from."""
    pace = (-28, 3)
    frames = torch.stack([SCENE[0].roll((3 * t, -28 * t), dims=(0, 1)) for t in range(FRAMES)])
    images = frames.round().clamp(0, 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    there = torch.tensor(pace, dtype=torch.float32)[:, None, None].repeat(1, HEIGHT, WIDTH)
    back = -there
    back[:, :, 0] = 50.0
    found = find_surfaces(
        build_pyramid(images, WIDTH),
        [(there, back)] * (FRAMES - 1),
        torch.tensor([2]),
        torch.tensor([[40.0, 80.0]]),
    )
    truth = expected(40.0, pace, frame=2)
    assert truth[-1, 0] < -120
    others = torch.arange(FRAMES) != 2
    assert (found.carried[0] - truth)[others].norm(dim=-1).max() < 0.2


@pytest.mark.parametrize("heeded", [True, False])
def test_about_limbs_nothing_is_said(monkeypatch: pytest.MonkeyPatch, heeded: bool) -> None:
    """More than two motions around a query, in bands of 14 px."""
    if not heeded:
        monkeypatch.setattr(surfaces_module, "EXPLAINED", 0.0)
    paces = torch.tensor([3, -5, 7, -2, 5, 0, -6, 2, -4, 6, -3, 4])
    bands = torch.arange(HEIGHT) // 14
    there = paces[bands].float()[:, None].expand(HEIGHT, WIDTH)
    there = torch.stack([there, torch.zeros_like(there)])
    frames = torch.stack(
        [
            torch.stack([row.roll(int(paces[band]) * t) for row, band in zip(texture(1), bands)])
            for t in range(FRAMES)
        ]
    )
    images = frames.round().clamp(0, 255).to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    found = find_surfaces(
        build_pyramid(images, WIDTH),
        [(there, -there)] * (FRAMES - 1),
        torch.tensor([MIDDLE]),
        torch.tensor([[120.0, 77.0]]),
    )
    assert found.motions.both.all()
    assert found.parted.all() == (not heeded)
    assert found.carried.isnan().all() == heeded


def test_a_single_frame_tells_nothing() -> None:
    picture = texture(1).round().clamp(0, 255).to(torch.uint8)
    pyramid = build_pyramid(picture[None, None].expand(-1, 3, -1, -1), WIDTH)
    found = find_surfaces(pyramid, [], torch.tensor([0]), torch.tensor([[120.0, 80.0]]))
    assert not found.parted.any() and found.carried.shape == (1, 1, 2)
