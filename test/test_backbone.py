"""Frozen features: the same numbers as transformers', at any size, stride, block and model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.backbone import (
    VIT_SHAPES,
    Backbone,
    VitShape,
    load_backbone,
    position_embeddings,
    random_network,
)
from dino_tracker_ros.tracking.errors import FrameError, SettingError, WeightsError
from dino_tracker_ros.tracking.matching import sample_tokens
from dino_tracker_ros.tracking.pixels import imagenet_normalized, unit_range
from dino_tracker_ros.tracking.precision import has_bfloat16_units, has_tile_units
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.weights import WeightsCache

CPU = torch.device("cpu")
SMALL = "facebook/dinov2-small"
TINY = VitShape(channels=128, depth=3, positions=5)
TINY_REGISTERS = VitShape(channels=128, depth=3, registers=4, positions=5)
TINY_GATED = VitShape(channels=128, depth=2, gated_mlp=True, positions=5)


def backbone_of(
    shape: VitShape, *blocks: int, stride: int = 14, final_norm: bool = False
) -> Backbone:
    return Backbone(random_network(shape), blocks, stride, final_norm, torch.float32, CPU)


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [TINY, TINY_REGISTERS, TINY_GATED])
@pytest.mark.parametrize("size", [(42, 56), (140, 98), (20, 33)])
def test_same_as_transformers_on_the_padded_image(shape: VitShape, size: tuple[int, int]) -> None:
    images = noise(2, 3, *size)
    network = random_network(shape).eval()
    grid = TokenGrid(*size)
    with torch.no_grad():
        padded = grid.pad(imagenet_normalized(images))
        expected = network(padded, output_hidden_states=True)
    blocks = tuple(range(1, shape.depth + 1))
    maps = backbone_of(shape, *blocks).features(images)
    normed = backbone_of(shape, shape.depth, final_norm=True).features(images)[0]
    skip = 1 + shape.registers
    wanted = [*expected.hidden_states[1:], expected.last_hidden_state]
    for ours, theirs in zip((*maps, normed), wanted, strict=True):
        theirs = theirs[:, skip:].transpose(1, 2).reshape(2, shape.channels, grid.rows, grid.cols)
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_overlapping_patches_hold_the_plain_ones() -> None:
    size = (56, 70)
    fine, coarse = TokenGrid(*size, stride=7), TokenGrid(*size, stride=14)
    table = noise(1, 8, 5, 5)
    rows, cols = slice(0, None, 2), slice(0, None, 2)
    at_fine = position_embeddings(table, fine, antialias=False)
    at_fine = at_fine.reshape(fine.rows, fine.cols, 8)[rows, cols]
    at_coarse = position_embeddings(table, coarse, antialias=False)
    at_coarse = at_coarse.reshape(coarse.rows, coarse.cols, 8)
    # Every second token of stride 7 is a token of stride 14: same patch, same position.
    torch.testing.assert_close(fine.centres()[rows, cols], coarse.centres())
    torch.testing.assert_close(at_fine, at_coarse)


def test_position_embeddings_follow_the_token_centres() -> None:
    # A table that is linear in position: inside it, bicubic reading gives the position back to
    # the twentieth part of a cell that its usual kernel is off.
    side = 37
    ramp = torch.arange(side).float()
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    table = torch.stack([x, y])[None]
    grid = TokenGrid(200, 310, stride=5)
    found = position_embeddings(table, grid, antialias=False).reshape(grid.rows, grid.cols, 2)
    height, width = grid.padded_size
    # Centres in the padded image run from patch / 2, and the table spans that image.
    expected = (grid.centres() + 7.5) / torch.tensor([width, height]) * side - 0.5
    inner = ((expected > 2) & (expected < side - 3)).all(dim=-1)
    assert inner.sum() > 100
    torch.testing.assert_close(found[inner], expected[inner], atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "size", [(60, 107), (107, 60), (48, 64), (61, 37), (14, 14), (3, 5), (1, 1)]
)
@pytest.mark.parametrize("stride", [14, 7, 5])
def test_every_size_and_aspect(size: tuple[int, int], stride: int) -> None:
    backbone = backbone_of(TINY, 2, stride=stride)
    grid = backbone.grid(*size)
    (maps,) = backbone.features(noise(3, 3, *size), batch=2)
    assert maps.shape == (3, 128, grid.rows, grid.cols)
    assert maps.isfinite().all()


def test_batches_types_and_order_of_blocks_do_not_matter() -> None:
    images = (noise(5, 3, 30, 44) * 255).byte()
    backbone = backbone_of(TINY, 3, 1)
    third, first = backbone.features(images, batch=5)
    for batch in (1, 2):
        again = backbone.features(images.float() / 255, batch=batch)
        torch.testing.assert_close(again, (third, first), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backbone_of(TINY, 1).features(images)[0], first)
    assert backbone.features(images[:1], dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_nothing_is_computed_beyond_the_last_block_and_nothing_learns() -> None:
    network = random_network(TINY)
    backbone = Backbone(network, (2,), 14, False, torch.float32, CPU)
    assert len(network.encoder.layer) == 2
    assert backbone.depth == 3
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not backbone.features(noise(1, 3, 28, 28))[0].requires_grad


@pytest.mark.parametrize(
    ("blocks", "stride", "words"),
    [
        ((0,), 14, r"block is 0; this model has blocks 1\.\.3"),
        ((1, 4), 14, "block is 4"),
        ((), 14, "name at least one"),
        ((1,), 0, r"stride is 0 px.*1\.\.14"),
        ((1,), 15, "stride is 15"),
    ],
)
def test_impossible_blocks_and_strides(blocks: tuple[int, ...], stride: int, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        backbone_of(TINY, *blocks, stride=stride)


@pytest.mark.parametrize(
    "images",
    [torch.zeros(3, 28, 28), torch.zeros(1, 4, 28, 28), torch.zeros(1, 3, 28, 28).int()],
)
def test_wrong_images(images: Tensor) -> None:
    with pytest.raises(FrameError, match="give"):
        backbone_of(TINY, 1).features(images)


@pytest.mark.parametrize("name", ["base", "large", "with-registers-small", "with-registers-base"])
def test_other_published_sizes(name: str) -> None:
    shape = VIT_SHAPES[f"facebook/dinov2-{name}"]
    # Two blocks of them: the rest is more of the same, and slow to fill with random numbers.
    backbone = backbone_of(replace(shape, depth=2), 2)
    assert backbone.channels == shape.channels
    (maps,) = backbone.features(noise(1, 3, 40, 30))
    assert maps.shape == (1, shape.channels, 4, 4)


@pytest.mark.parametrize("shape", [TINY, TINY_REGISTERS, TINY_GATED])
def test_a_folder_with_weights_of_any_shape(tmp_path: Path, shape: VitShape) -> None:
    random_network(shape).save_pretrained(tmp_path)
    for model, weights in ((str(tmp_path), ""), (SMALL, str(tmp_path / "model.safetensors"))):
        loaded = load_backbone(
            model,
            weights=weights,
            cache=WeightsCache(tmp_path / "cache"),
            blocks=(2,),
            stride=7,
            final_norm=False,
            precision=torch.float32,
            device=CPU,
        )
        images = noise(1, 3, 40, 30)
        expected = backbone_of(shape, 2, stride=7).features(images)
        torch.testing.assert_close(loaded.features(images), expected)


def load(cache: WeightsCache, *blocks: int, stride: int, weights: str = "",
         precision: torch.dtype = torch.float32) -> Backbone:  # fmt: skip
    return load_backbone(
        SMALL, cache=cache, weights=weights, blocks=blocks, stride=stride, final_norm=False,
        precision=precision, device=CPU,
    )  # fmt: skip


@pytest.mark.parametrize("content", ["text", "other tensors", "a tensor too few"])
def test_files_that_are_no_dinov2(tmp_path: Path, content: str) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    if content == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1")
    elif content == "other tensors":
        save_file({"a": torch.zeros(1)}, path)
    else:
        random_network(TINY).save_pretrained(tmp_path)
        tensors = load_file(path)
        del tensors["encoder.layer.1.mlp.fc1.weight"]
        save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(WeightsCache(tmp_path / "cache"), 1, stride=14, weights=str(path))


@pytest.mark.parametrize("stride", [14, 7])
def test_real_features_find_the_place_in_a_shifted_photograph(
    weights_cache: WeightsCache, photo: NDArray[np.uint8], stride: int
) -> None:
    shift = torch.tensor([28.0, -14.0])
    picture = torch.from_numpy(photo).permute(2, 0, 1)
    frames = torch.stack([picture[:, 60:270, 80:332], picture[:, 74:284, 52:304]])
    backbone = load(weights_cache, 8, stride=stride)
    grid = backbone.grid(210, 252)
    (maps,) = backbone.features(frames)
    y, x = torch.meshgrid(torch.arange(40.0, 170, 17), torch.arange(40.0, 200, 17), indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(1, -1, 2)
    origin = torch.zeros(points.shape[1]).long()
    queries = F.normalize(sample_tokens(maps[:1].flatten(2), origin, points[0], grid), dim=-1)
    similarity = queries @ F.normalize(maps[1].flatten(1), dim=0)
    found = grid.centres().reshape(-1, 2)[similarity.argmax(dim=1)]
    error = (found - points[0] - shift).norm(dim=-1)
    # A nearest token is at best as near as tokens are apart.
    assert error.median() < 0.75 * stride
    assert (error < 1.5 * stride).float().mean() > 0.9


def test_bfloat16_changes_little(weights_cache: WeightsCache, photo: NDArray[np.uint8]) -> None:
    frame = torch.from_numpy(photo).permute(2, 0, 1)[None, :, :140, 100:310]
    exact = load(weights_cache, 4, 8, stride=14).features(frame)
    rough = load(weights_cache, 4, 8, stride=14, precision=torch.bfloat16).features(frame)
    for a, b in zip(exact, rough, strict=True):
        assert b.dtype == torch.float32
        assert torch.cosine_similarity(a, b, dim=1).min() > 0.98


def test_pixels_reach_the_network_as_imagenet_wants_them() -> None:
    image = torch.tensor([255, 0, 128], dtype=torch.uint8).view(1, 3, 1, 1)
    found = imagenet_normalized(unit_range(image)).flatten()
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "bfloat16", "tiles"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 arat\n", False, False),
        ("vendor_id\t: GenuineIntel\nmodel : 1\nflags\t\t: fpu avx512_bf16 arat\n", False, False),
        ("vendor_id\t: AuthenticAMD\nmodel : 1\nflags\t\t: fpu avx512_bf16 arat\n", True, False),
        ("vendor_id\t: AuthenticAMD\nmodel : 1\nflags\t\t: fpu avx2\n", False, False),
        ("flags\t\t: fpu avx512f amx_bf16 amx_tile\n", True, True),
        ("Features\t: fp asimd i8mm bf16 dgh\n", True, False),
        ("flags\t\t: fpu avx2 f16c\nbugs : bf16 amx_bf16\n", False, False),
        (None, False, False),
    ],
)
def test_bfloat16_units_are_read_from_the_cpu(
    tmp_path: Path, text: str | None, bfloat16: bool, tiles: bool
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert has_bfloat16_units(path) is bfloat16
    assert has_tile_units(path) is tiles
