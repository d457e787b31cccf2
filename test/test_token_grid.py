"""Token geometry at every size and aspect."""

from __future__ import annotations

import pytest
import torch

from dino_tracker_ros.tracking.token_grid import TokenGrid

SIZES = [(476, 854), (854, 476), (480, 640), (101, 77), (14, 14), (8, 31), (1, 1), (15, 29)]
STRIDES = [14, 7, 5, 1]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("patch", [14, 16, 7])
def test_tokens_reach_every_pixel(height: int, width: int, stride: int, patch: int) -> None:
    grid = TokenGrid(height, width, patch, stride)
    centres = grid.centres()
    assert centres.shape == (grid.rows, grid.cols, 2)
    assert centres[0, 0].max() <= 0
    last_x, last_y = centres[-1, -1].tolist()
    # They reach the last pixel, and not one token more than that takes.
    assert width - 1 <= last_x < max(width - 1, 0.5) + stride
    assert height - 1 <= last_y < max(height - 1, 0.5) + stride


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
def test_a_convolution_over_the_padded_image_lands_on_the_grid(
    height: int, width: int, stride: int
) -> None:
    grid = TokenGrid(height, width, 14, stride)
    padded = grid.pad(torch.zeros(2, 3, height, width))
    assert tuple(padded.shape) == (2, 3, *grid.padded_size)
    tokens = torch.nn.functional.conv2d(padded, torch.ones(1, 3, 14, 14), stride=stride)
    assert tuple(tokens.shape) == (2, 1, grid.rows, grid.cols)


@pytest.mark.parametrize("stride", STRIDES)
def test_a_tokens_centre_is_the_mean_position_of_its_pixels(stride: int) -> None:
    height, width = 70, 95
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = TokenGrid(height, width, 14, stride)
    padded = grid.pad(torch.stack([x, y])[None].float())
    means = torch.nn.functional.avg_pool2d(padded, 14, stride)[0].permute(1, 2, 0)
    centres = grid.centres()
    # Where a patch lies wholly inside the image no mirrored pixel disturbs its mean.
    limit = torch.tensor([width - 1.0, height - 1.0])
    inner = ((centres >= 6.5) & (centres <= limit - 6.5)).all(dim=-1)
    assert inner.any()
    torch.testing.assert_close(means[inner], centres[inner])


def test_padding_keeps_the_image_and_mirrors_its_border() -> None:
    grid = TokenGrid(20, 30, 14, 14)
    image = torch.rand(1, 3, 20, 30)
    padded = grid.pad(image)
    assert torch.equal(padded[..., 7:27, 7:37], image)
    assert torch.equal(padded[..., 7:27, 6], image[..., 1])
    assert torch.equal(padded[..., 27, 7:37], image[..., 18, :])


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
def test_positions_map_there_and_back(height: int, width: int, stride: int) -> None:
    grid = TokenGrid(height, width, 14, stride)
    points = torch.rand(50, 2) * torch.tensor([width, height]) - 0.5
    torch.testing.assert_close(grid.to_pixels(grid.to_grid(points)), points, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", STRIDES)
def test_sampling_a_linear_map_gives_positions_back(height: int, width: int, stride: int) -> None:
    grid = TokenGrid(height, width, 14, stride)
    features = grid.centres().permute(2, 0, 1)[None].double()
    unit = torch.rand(3, 4, 2, generator=torch.Generator().manual_seed(0)).double()
    corners = torch.tensor([[0.0, 0.0], [width - 1.0, height - 1.0]]).expand(3, 2, 2)
    inside = unit * torch.tensor([width - 1.0, height - 1.0])
    points = torch.cat([inside, corners], dim=1)
    torch.testing.assert_close(grid.sample(features, points), points, atol=1e-4, rtol=0)


def test_sampling_outside_takes_the_border_and_half_precision_keeps_positions() -> None:
    grid = TokenGrid(140, 140, 14, 7)
    features = grid.centres().permute(2, 0, 1)[None]
    far = torch.tensor([[[-100.0, 500.0]]])
    torch.testing.assert_close(grid.sample(features, far), torch.tensor([[[-0.5, 139.5]]]))
    # Small whole numbers are exact in bfloat16; a position in bfloat16 would be 0.25 px off.
    nodes = grid.to_grid(features[:, :1]).to(torch.bfloat16)
    point = torch.tensor([[[100.3, 10.0]]])
    found = grid.sample(nodes, point)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, grid.to_grid(point)[..., :1], atol=1e-3, rtol=0)


def test_sampling_passes_gradients_and_broadcasts_frames() -> None:
    grid = TokenGrid(30, 40, 14, 14)
    features = torch.rand(1, 5, grid.rows, grid.cols, requires_grad=True)
    points = torch.rand(4, 6, 2, requires_grad=True)
    found = grid.sample(features, points)
    assert found.shape == (4, 6, 5)
    found.square().sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert points.grad is not None and points.grad.abs().sum() > 0
    assert grid.sample(features.expand(4, -1, -1, -1), points[:1]).shape == (4, 6, 5)
