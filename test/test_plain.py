"""Points of plain walls, and whether they are in sight."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.noise import with_noise
from dino_tracker_ros.tracking.plain import NEAR, is_plain, plain_in_sight
from dino_tracker_ros.tracking.pyramid import Pyramid, build_pyramid
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH, FRAMES = 160, 240, 5
WALL, DARK_THING = 150.0, 60.0  # gray values
HIDDEN = 2  # the frame in which something is before the wall
POINT = torch.tensor([[180.0, 80.0]])  # of the wall; left of x = 120 there is texture
OTHER = torch.tensor([[60.0, 80.0]])

pytestmark = pytest.mark.usefixtures("one_thread")


def scene(thing: Tensor | float, brighter: float = 1.0, spread: float = 1.5) -> Pyramid:
    """A wall that a camera which stands still sees in noise, brighter from frame 3 on, and a thing
    before it in one frame."""
    generator = torch.Generator().manual_seed(0)
    frames = []
    for t in range(FRAMES):
        picture = torch.full((HEIGHT, WIDTH), WALL)
        picture[:, :120] = texture(1)
        if t == HIDDEN:
            picture[40:120, 140:220] = thing
        picture = picture * (brighter if t > HIDDEN else 1.0)
        frames.append(picture + spread * torch.randn(picture.shape, generator=generator))
    images = torch.stack(frames).round().clamp(0, 255).to(torch.uint8)
    pyramid = build_pyramid(images[:, None].expand(-1, 3, -1, -1), WIDTH)
    return with_noise(pyramid, still())


def texture(seed: int) -> Tensor:
    """Smooth noise, [HEIGHT, 120] in 60..180."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, HEIGHT // 4, 30, generator=generator)
    size = (HEIGHT, 120)
    picture = torch.nn.functional.interpolate(noise, size, mode="bicubic", antialias=True)
    return 60 + 120 * picture[0, 0].clamp(0, 1)


def still() -> list[FlowPair]:
    return [(torch.zeros(2, HEIGHT, WIDTH),) * 2] * (FRAMES - 1)


def told(
    pyramid: Pyramid,
    flows: list[FlowPair] | None = None,
    led: Tensor | None = None,
    frame: int = 0,
) -> list[float]:
    """Of the wall's point, asked for in `frame`, which does not move."""
    points = POINT.expand(1, FRAMES, 2)
    return plain_in_sight(
        pyramid, still() if flows is None else flows, torch.tensor([frame]), POINT, points,
        points if led is None else led,
    )[0].tolist()  # fmt: skip


@pytest.mark.parametrize("spread", [0.0, 1.5, 5.0])
def test_a_wall_is_plain_and_texture_is_not(spread: float) -> None:
    points = torch.cat([POINT, OTHER, torch.tensor([[121.0, 80.0]])])
    found = is_plain(scene(WALL, spread=spread), torch.tensor([0, 0, 0]), points)
    assert found.tolist() == [True, False, False]


@pytest.mark.parametrize("spread", [1.5, 5.0])
@pytest.mark.parametrize("brighter", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("plain", [True, False])
def test_a_wall_is_in_sight_but_behind_what_looks_otherwise(
    plain: bool, brighter: float, spread: float
) -> None:
    thing = DARK_THING if plain else texture(2)[40:120, 20:100]
    seen = told(scene(thing, brighter, spread))
    assert seen[HIDDEN] < 0.1
    assert min(seen[:HIDDEN] + seen[HIDDEN + 1 :]) > 0.9


def test_nothing_is_told_where_the_wall_is_elsewhere_or_nobody_knows_where() -> None:
    led = POINT.repeat(1, FRAMES, 1)
    led[0, 1], led[0, 3, 0], led[0, 4, 1] = torch.nan, 180 + NEAR - 0.1, 80 - NEAR
    seen = torch.tensor(told(scene(DARK_THING), led=led))
    assert seen.isnan().tolist() == [False, True, False, False, True]
    nowhere = torch.full_like(led, torch.nan)
    assert torch.tensor(told(scene(DARK_THING), led=nowhere)).isnan().all()


def test_where_flow_does_not_tell_how_bright_frames_are_nothing_is_told() -> None:
    flows = still()
    flows[3] = flows[3][0], flows[3][1] + 5.0  # closes no loop
    seen = torch.tensor(told(scene(DARK_THING, 1.4), flows))
    assert seen.isnan().tolist() == [False, False, False, False, True]
    backward = torch.tensor(told(scene(DARK_THING, 1.4), flows, frame=4))
    assert backward.isnan().tolist() == [True, True, True, True, False]
