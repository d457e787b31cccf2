"""How noisy pictures are, where it is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.noise import FEWEST, SPACING, with_noise
from dino_tracker_ros.tracking.pyramid import Pyramid, build_pyramid
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH = 180, 240

pytestmark = pytest.mark.usefixtures("one_thread")


def moving(noise: list[float]) -> tuple[Pyramid, list[FlowPair]]:
    """Waves that move, brighter from frame to frame, in noise of some standard deviation."""
    generator = torch.Generator().manual_seed(0)
    step = torch.tensor([8.0, -4.0])  # whole pixels on three levels
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    frames = []
    for t, spread in enumerate(noise):
        places = torch.stack([x, y], dim=-1) - t * step
        picture = 120 + 5 * t + 30 * (places[..., 0] / 9).sin() + 30 * (places[..., 1] / 7).cos()
        frames.append(picture + spread * torch.randn(picture.shape, generator=generator))
    images = torch.stack(frames).round().clamp(0, 255).to(torch.uint8)
    there = step[:, None, None].expand(2, HEIGHT, WIDTH)
    flows = [(there, -there)] * (len(noise) - 1)
    return build_pyramid(images[:, None].expand(-1, 3, -1, -1), WIDTH), flows


@pytest.mark.parametrize("spread", [2.0, 6.0])
def test_white_noise_is_measured_on_every_level(spread: float) -> None:
    noise = with_noise(*moving([spread] * 3)).noise
    assert noise.shape == (5, 3)
    grain = 128 + spread * torch.randn(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    alone = build_pyramid(grain.round().to(torch.uint8).expand(1, 3, -1, -1), WIDTH)
    for level in range(3):
        expected = alone.levels[level].std().expand(3)
        torch.testing.assert_close(noise[level], expected, rtol=0.15, atol=0.1)


def test_a_clean_picture_has_next_to_none() -> None:
    assert (with_noise(*moving([0.0] * 3)).noise[:3] < 0.2).all()


def test_a_frame_is_as_noisy_as_its_better_neighbour_tells() -> None:
    noise = with_noise(*moving([2.0, 2.0, 8.0, 8.0])).noise[0]
    torch.testing.assert_close(noise, torch.tensor([2.0, 2.0, 5.83, 8.0]), rtol=0.15, atol=0.1)


def wrong(flow: FlowPair) -> FlowPair:
    """Flow whose loops do not close."""
    return flow[0], flow[1] + 5.0


def test_where_flow_tells_nothing_nothing_is_known() -> None:
    pyramid, flows = moving([4.0] * 4)
    assert (pyramid.noise == 0).all()
    assert (with_noise(pyramid, [wrong(flow) for flow in flows]).noise == 0).all()
    some = with_noise(pyramid, [wrong(flows[0]), *flows[1:]]).noise[0]
    assert some[0] == 0 and (some[1:] > 3).all()


def test_few_places_tell_nothing() -> None:
    pyramid, flows = moving([4.0] * 2)
    kept = torch.full_like(flows[0][0], 1e3)
    cols = int(SPACING * (FEWEST // 30))
    kept[:, :, :cols] = flows[0][0][:, :, :cols]
    assert (with_noise(pyramid, [(kept, -kept)]).noise == 0).all()


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("size", [(3, 4), (40, 60)])
def test_few_frames_and_tiny_pictures_do(frames: int, size: tuple[int, int]) -> None:
    images = torch.zeros(frames, 3, *size, dtype=torch.uint8)
    flows: list[FlowPair] = [(torch.zeros(2, *size),) * 2] * (frames - 1)
    noise: Tensor = with_noise(build_pyramid(images, 64), flows).noise
    assert noise.shape == (5, frames) and (noise == 0).all()
