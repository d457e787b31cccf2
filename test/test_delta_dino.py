"""The residual network: zero at the start, and its output on the pixels it belongs to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dino_tracker_ros.tracking.delta_dino import BlurPool, DeltaDino, ReflectedConv2d
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.settings import DeltaDinoSettings, Settings, with_values
from dino_tracker_ros.tracking.token_grid import TokenGrid

CHANNELS = 6


def network(downscale: int = 1, kernel: int = 5, width: int = 4) -> DeltaDino:
    torch.manual_seed(0)
    settings = DeltaDinoSettings(width=width, kernel=kernel, downscale=downscale)
    return DeltaDino(CHANNELS, settings).eval()


def passing_through(downscale: int = 1, kernel: int = 5) -> DeltaDino:
    """The network with convolutions that hand on channel 0, so that only geometry is left."""
    passing = network(downscale, kernel)
    for layer in passing.modules():
        if isinstance(layer, ReflectedConv2d):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            middle = layer.kernel_size[0] // 2
            with torch.no_grad():
                layer.weight[0, 0, middle, middle] = 1
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            layer.eps = 0.0
    return passing


def learnt(downscale: int) -> DeltaDino:
    """The network with a last layer that is no longer zero."""
    trained = network(downscale)
    for layer in trained.modules():
        if isinstance(layer, ReflectedConv2d):
            nn.init.normal_(layer.weight, std=0.2)
    return trained


def residual(model: DeltaDino, images: Tensor, grid: TokenGrid) -> Tensor:
    """Of images [B, 3, H, W] at their own size."""
    found: Tensor = model(model.shrunk(images), grid)
    return found


def ramp(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pictures whose first channel is x, and y."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return tuple(v[None, None].float().expand(1, 3, -1, -1) for v in (x, y))  # type: ignore[return-value]


def test_it_starts_as_nothing() -> None:
    images = torch.randn(2, 3, 70, 98)
    grid = TokenGrid(70, 98)
    for downscale in (1, 2):
        for training in (True, False):
            found = residual(network(downscale).train(training), images, grid)
            assert found.shape == (2, CHANNELS, grid.rows, grid.cols)
            assert (found == 0).all()


def test_refined_features_start_as_the_frozen_ones() -> None:
    model = TrackerModel(CHANNELS, Settings(), torch.float32)
    grid = TokenGrid(45, 60)
    images = torch.randint(0, 255, (2, 3, 45, 60), dtype=torch.uint8)
    raw = torch.randn(2, CHANNELS, grid.rows, grid.cols)
    assert torch.equal(model.refine(model.pictures(images), raw, grid), raw.flatten(2))


def test_a_share_of_the_residual_lies_on_the_way_to_the_whole() -> None:
    model = TrackerModel(CHANNELS, Settings(), torch.float32).eval()
    with torch.no_grad():
        model.delta_dino.layers[-2].weight.normal_()
    grid = TokenGrid(45, 60)
    pictures = model.pictures(torch.randint(0, 255, (2, 3, 45, 60), dtype=torch.uint8))
    raw = torch.randn(2, CHANNELS, grid.rows, grid.cols)
    with torch.no_grad():
        none, some, whole = (model.refine(pictures, raw, grid, share) for share in (0, 0.25, 1))
    assert torch.equal(whole, model.refine(pictures, raw, grid))
    assert torch.equal(none, raw.flatten(2))
    assert (whole - none).norm() > 0.1
    torch.testing.assert_close(some, none + 0.25 * (whole - none))


def test_the_first_steps_reach_the_last_layer_and_the_following_ones_all() -> None:
    """Zero-initialised is not dead: the last convolution has a gradient at once."""
    model = network().train()
    grid = TokenGrid(70, 70)
    images, wanted = torch.randn(2, 3, 70, 70), torch.randn(2, CHANNELS, grid.rows, grid.cols)
    for step in range(2):
        model.zero_grad()
        (model(images, grid) - wanted).square().sum().backward()
        convolutions = [m for m in model.modules() if isinstance(m, ReflectedConv2d)]
        gradients = [float(m.weight.grad.abs().sum()) for m in convolutions]
        assert gradients[-1] > 0
        if step == 1:
            assert min(gradients) > 0
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 1e-3 * parameter.grad


@pytest.mark.parametrize("downscale", [1, 2, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(224, 280), (225, 283), (251, 234), (342, 250)])
@pytest.mark.parametrize("stride", [14, 7])
def test_the_output_lies_where_the_tokens_lie(
    downscale: int, height: int, width: int, stride: int
) -> None:
    """A picture of its own coordinates comes out as the coordinates of the token centres."""
    grid = TokenGrid(height, width, stride=stride)
    model = passing_through(downscale)
    centres = grid.centres()
    # Blurs and borders reach this far into the picture.
    margin = 14.0 * downscale + 8
    limit = torch.tensor([width - 1, height - 1]) - margin
    inner = ((centres >= margin) & (centres <= limit)).all(dim=-1)
    assert inner.any()
    for axis, picture in enumerate(ramp(height, width)):
        with torch.no_grad():
            found = residual(model, picture, grid)[0, 0]
        error = (found - centres[..., axis])[inner].abs().max()
        assert error < 0.02, f"off by {error:.3f} px"


@pytest.mark.parametrize("downscale", [1, 2])
@pytest.mark.parametrize("x", [84, 97, 101])
def test_a_bright_spot_stays_in_its_place(downscale: int, x: int) -> None:
    height, width = 183, 211
    grid = TokenGrid(height, width, stride=4)
    picture = torch.zeros(1, 3, height, width)
    y = 88
    picture[..., y, x] = 1000
    with torch.no_grad():
        found = residual(passing_through(downscale), picture, grid)[0, 0]
    place = (grid.centres() * found[..., None]).sum(dim=(0, 1)) / found.sum()
    # An impulse falls between the samples of a stride-8 map: a little aliasing is left.
    torch.testing.assert_close(place, torch.tensor([x, y]).float(), atol=0.6, rtol=0)


@pytest.mark.parametrize(("downscale", "shift", "tokens"), [(1, 56, 4), (2, 112, 8)])
def test_a_shifted_picture_has_a_shifted_residual(downscale: int, shift: int, tokens: int) -> None:
    # The shift is a multiple of the network's stride and of the tokens', so that both are exact.
    far = tokens + 5 * downscale  # what it sees of the picture, in tokens
    size = 14 * (2 * far + 4)
    generator = torch.Generator().manual_seed(0)
    scene = torch.randn(1, 3, size + shift, size + shift, generator=generator)
    grid = TokenGrid(size, size)
    model = learnt(downscale)
    with torch.no_grad():
        before = residual(model, scene[..., :size, :size], grid)
        after = residual(model, scene[..., :size, shift:], grid)
        below = residual(model, scene[..., shift:, :size], grid)
    inner = slice(far, -far)
    assert before.std() > 0.01
    moved = slice(far - tokens, -far - tokens)
    expected = before[..., inner, inner]
    torch.testing.assert_close(after[..., inner, moved], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(below[..., moved, inner], expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (2, 3), (7, 8), (16, 16), (15, 90), (90, 15), (101, 77)]
)
@pytest.mark.parametrize("downscale", [1, 2, 4])
@pytest.mark.parametrize("kernel", [3, 9])
def test_any_size_gives_one_residual_a_token(
    height: int, width: int, downscale: int, kernel: int
) -> None:
    grid = TokenGrid(height, width)
    found = residual(learnt_of(kernel, downscale), torch.rand(2, 3, height, width), grid)
    assert found.shape == (2, CHANNELS, grid.rows, grid.cols)
    assert found.isfinite().all()


def learnt_of(kernel: int, downscale: int) -> DeltaDino:
    model = network(downscale, kernel)
    nn.init.normal_([m for m in model.modules() if isinstance(m, ReflectedConv2d)][-1].weight)
    return model


def test_the_published_network() -> None:
    model = DeltaDino(1024, DeltaDinoSettings(width=64, kernel=5))
    convolutions = [m for m in model.modules() if isinstance(m, ReflectedConv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (3, 64), (64, 128), (128, 256), (256, 1024),
    ]  # fmt: skip
    assert {m.kernel_size for m in convolutions} == {(5, 5)}
    assert [m.dilation for m in convolutions] == [(1, 1)] * 3 + [(2, 2)]
    normalizations = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(normalizations) == 4
    assert (normalizations[-1].weight == 0.05).all()
    assert (convolutions[-1].weight == 0).all() and (convolutions[-1].bias == 0).all()
    assert sum(isinstance(m, nn.ReLU) for m in model.modules()) == 3
    assert sum(isinstance(m, BlurPool) for m in model.modules()) == 3


@pytest.mark.parametrize("size", [1, 2, 5, 6, 11])
def test_the_blur_by_hand(size: int) -> None:
    values = torch.arange(1.0, size + 1) ** 2
    found = BlurPool(2)(values.expand(1, 2, 3, size))
    assert found.shape == (1, 2, 2, (size + 1) // 2)
    row = values.tolist()

    def at(k: int) -> float:
        return row[min(max(k, 0), size - 1)]

    expected = [
        (at(2 * k - 1) + 3 * at(2 * k) + 3 * at(2 * k + 1) + at(2 * k + 2)) / 8
        for k in range((size + 1) // 2)
    ]
    for channel in range(2):
        for line in range(2):
            assert found[0, channel, line].tolist() == pytest.approx(expected)


def test_a_convolution_mirrors_the_border() -> None:
    layer = ReflectedConv2d(1, 1, 3, bias=False)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.weight[0, 0, 1, 0] = 1  # reads its left neighbour
        picture = torch.arange(20.0).view(1, 1, 4, 5)
        found = layer(picture)
    assert found[0, 0, 0].tolist() == [1, 0, 1, 2, 3]
    assert found.shape == picture.shape


def test_the_seed_makes_the_first_weights() -> None:
    def weights(seed: int) -> list[Tensor]:
        settings = with_values(Settings(), {"optimizer.seed": seed, "delta_dino.width": 4})
        return list(TrackerModel(CHANNELS, settings, torch.float32).state_dict().values())

    torch.manual_seed(1)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    first = weights(0)
    assert torch.equal(torch.rand(3), drawn), "building a model disturbs the caller's randomness"
    assert all(torch.equal(a, b) for a, b in zip(first, weights(0)))
    assert not all(torch.equal(a, b) for a, b in zip(first, weights(1)))
