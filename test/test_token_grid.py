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
@pytest.mark.parametrize("scale", [1.0, 1.37, 1.5, 4.0])
def test_a_larger_picture_is_mapped_there_and_back(height: int, width: int, scale: float) -> None:
    grid = TokenGrid(height, width, 14, 7, scale)
    points = torch.rand(50, 2) * torch.tensor([width, height]) - 0.5
    torch.testing.assert_close(grid.to_pixels(grid.to_grid(points)), points, atol=1e-3, rtol=0)
    seen_height, seen_width = grid.picture_size
    seen = TokenGrid(seen_height, seen_width, 14, 7)
    assert (grid.rows, grid.cols, grid.padded_size) == (seen.rows, seen.cols, seen.padded_size)
    # Tokens lie in the picture as they always do; a picture's edges are the image's.
    ratio = torch.tensor([seen_width / width, seen_height / height])
    torch.testing.assert_close(grid.to_grid(points), seen.to_grid((points + 0.5) * ratio - 0.5))
    torch.testing.assert_close(grid.centres(), (seen.centres() + 0.5) / ratio - 0.5)
    apart = grid.centres()[1:, 0, 1].diff()
    limit = grid.spacing / (2 * min(grid.picture_size))  # a picture of 22 px reaches it
    assert ((apart - grid.spacing).abs() <= limit + 1e-6).all()
    padded = grid.pad(torch.zeros(1, 3, seen_height, seen_width))
    assert tuple(padded.shape[-2:]) == grid.padded_size


def test_a_picture_of_half_as_much_again_by_hand() -> None:
    grid = TokenGrid(100, 200, 14, 14, 1.5)
    assert grid.picture_size == (150, 300)
    assert grid.spacing == pytest.approx(28 / 3)
    # Node 0 is on the corner of four pixels of the picture, which is the corner of four pixels.
    assert grid.to_pixels(torch.zeros(2)).tolist() == pytest.approx([-0.5, -0.5])
    assert grid.to_pixels(torch.tensor([3.0, 1.0])).tolist() == pytest.approx([27.5, 28 / 3 - 0.5])
