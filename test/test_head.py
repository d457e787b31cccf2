"""The windowed head against the published one on the full map, and features at points."""

from __future__ import annotations

import math

import pytest
import torch
from slow_sampling import slow_sample
from torch import Tensor
from torch.nn import functional as F

from dino_tracker_ros.tracking.head import TrackerHead
from dino_tracker_ros.tracking.matching import cosines, lengths, predict, sample_tokens
from dino_tracker_ros.tracking.settings import HeadSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid

SIZES = [(120, 171), (171, 120), (90, 90), (16, 16), (14, 200), (1, 1), (45, 33)]


def head_of(initialization: str = "random", radius: float = 35.0, seed: int = 0) -> TrackerHead:
    torch.manual_seed(seed)
    settings = HeadSettings(radius=radius, initialization=initialization)
    return TrackerHead(settings)


def full_map(
    head: TrackerHead, cost: Tensor, grid: TokenGrid, best: int | None = None
) -> tuple[float, float]:
    """As published: refine the whole map, softmax over all of it, expectation in the disc."""
    refiner = head.refiner
    kernels = []
    for layer in (refiner.first, refiner.second):
        kernel = torch.empty_like(layer.weight)
        for out in range(kernel.shape[0]):
            for inp in range(kernel.shape[1]):
                kernel[out, inp] = layer.weight[out, inp] / layer.weight[out, inp].sum()
        kernels.append(kernel)
    picture = cost.view(1, 1, grid.rows, grid.cols)
    hidden = F.relu(F.conv2d(picture, kernels[0], refiner.first.bias, padding=1))
    refined = F.conv2d(hidden, kernels[1], refiner.second.bias, padding=1)
    share = refined.flatten().softmax(dim=0)
    best = int(cost.argmax()) if best is None else best
    x_best, y_best = best % grid.cols, best // grid.cols
    centres = grid.centres().double()
    total = x = y = 0.0
    for row in range(grid.rows):
        for column in range(grid.cols):
            far = grid.spacing * math.hypot(row - y_best, column - x_best)
            if far <= head.radius:
                weight = float(share[row * grid.cols + column])
                total += weight
                x += weight * float(centres[row, column, 0])
                y += weight * float(centres[row, column, 1])
    return x / total, y / total


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", [14, 7])
@pytest.mark.parametrize("initialization", ["random", "smooth"])
def test_the_window_gives_what_the_whole_map_gives(
    height: int, width: int, stride: int, initialization: str
) -> None:
    grid = TokenGrid(height, width, stride=stride)
    head = head_of(initialization).double()
    generator = torch.Generator().manual_seed(height + stride)
    cost = torch.rand(9, grid.rows * grid.cols, generator=generator, dtype=torch.float64)
    # The best match in the corners, on the borders, and anywhere.
    corners = [
        0, grid.cols - 1, (grid.rows - 1) * grid.cols, grid.rows * grid.cols - 1,
        grid.cols // 2, (grid.rows // 2) * grid.cols,
    ]  # fmt: skip
    for k, token in enumerate(corners):
        cost[k, token] = 1.5
    with torch.no_grad():
        found = head(cost, grid)
        slow = [full_map(head, row, grid) for row in cost]
    expected = torch.tensor(slow, dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("radius", [1.0, 6.9, 7.0, 14.0, 35.0, 1000.0])
def test_any_radius(radius: float) -> None:
    grid = TokenGrid(60, 75, stride=7)
    head = head_of(radius=radius).double()
    generator = torch.Generator().manual_seed(1)
    cost = torch.rand(4, grid.rows * grid.cols, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = [full_map(head, row, grid) for row in cost]
        torch.testing.assert_close(
            head(cost, grid), torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_disc_is_around_the_token_that_is_asked_for(scale: float) -> None:
    grid = TokenGrid(60, 75, stride=7, scale=scale)
    head = head_of(radius=20.0).double()
    generator = torch.Generator().manual_seed(1)
    cost = torch.rand(6, grid.rows * grid.cols, generator=generator, dtype=torch.float64)
    best = torch.randint(grid.rows * grid.cols, (6,), generator=generator)
    with torch.no_grad():
        slow = [full_map(head, row, grid, int(token)) for row, token in zip(cost, best)]
        found = head(cost, grid, best)
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), atol=1e-4, rtol=0)
    assert not torch.allclose(found, head(cost, grid))


def test_the_window_gives_the_gradient_the_whole_map_gives() -> None:
    grid = TokenGrid(80, 100, stride=14)
    head = head_of("smooth").double()
    cost = torch.rand(1, grid.rows * grid.cols, dtype=torch.float64, requires_grad=True)
    head(cost, grid).sum().backward()
    assert cost.grad is not None
    for token in range(0, grid.rows * grid.cols, 5):
        nudged = []
        for sign in (1, -1):
            moved = cost.detach().clone()
            moved[0, token] += sign * 1e-6
            with torch.no_grad():
                nudged.append(sum(full_map(head, moved[0], grid)))
        slope = (nudged[0] - nudged[1]) / 2e-6
        assert float(cost.grad[0, token]) == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("stride", [14, 7])
def test_every_pixel_can_be_predicted(height: int, width: int, stride: int) -> None:
    """With a sharp cost the expectation goes wherever the two or four best tokens pull it."""
    grid = TokenGrid(height, width, stride=stride)
    head = head_of("smooth").double()
    with torch.no_grad():  # the refiner hands its input on, once for every channel
        for layer in (head.refiner.first, head.refiner.second):
            layer.weight.zero_()
            layer.weight[:, :, 1, 1] = 1.0
            layer.bias.zero_()
    gain = head.refiner.second.weight.shape[1]
    ys, xs = sorted({0, 1, height // 2, height - 1}), sorted({0, 1, width // 3, width - 1})
    for y in ys:
        for x in xs:
            node = grid.to_grid(torch.tensor([float(x), float(y)], dtype=torch.float64))
            cost = torch.zeros(grid.rows, grid.cols, dtype=torch.float64)
            column, row = int(node[0].floor()), int(node[1].floor())
            for c, share_x in ((column, column + 1 - node[0]), (column + 1, node[0] - column)):
                for r, share_y in ((row, row + 1 - node[1]), (row + 1, node[1] - row)):
                    if share_x * share_y > 1e-9:
                        # The logarithm of a share is the logit whose softmax it is.
                        cost[r, c] = (60 + math.log(share_x * share_y)) / gain
            with torch.no_grad():
                found = head(cost.view(1, -1), grid)[0]
            assert found.tolist() == pytest.approx([x, y], abs=1e-3)


def test_a_single_match_is_read_off_by_hand() -> None:
    grid = TokenGrid(140, 140)
    head = head_of("smooth", radius=1.0)
    cost = torch.zeros(1, grid.rows * grid.cols)
    cost[0, 3 * grid.cols + 6] = 1.0
    # Row 3, column 6: half a pixel before 6 * 14 and 3 * 14, as an even patch has it.
    assert head(cost, grid).tolist() == [[83.5, 41.5]]
    # Where all is equal, the disc's middle: 35 px hold two tokens to each side.
    flat = torch.ones(1, grid.rows * grid.cols)
    flat[0, 5 * grid.cols + 5] = 1.000001
    assert head_of("smooth")(flat, grid)[0].tolist() == pytest.approx([69.5, 69.5], abs=1e-2)


def test_the_gradient_reaches_the_refiner_and_the_cost() -> None:
    grid = TokenGrid(100, 100)
    for initialization in ("random", "smooth"):
        head = head_of(initialization)
        cost = torch.rand(8, grid.rows * grid.cols, requires_grad=True)
        head(cost, grid).square().sum().backward()
        assert cost.grad is not None and (cost.grad != 0).any()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        assert all((m.weight.grad != 0).any() for m in (head.refiner.first, head.refiner.second))


def test_a_kernel_whose_sum_is_zero_does_no_harm() -> None:
    grid = TokenGrid(56, 56)
    head = head_of()
    with torch.no_grad():
        head.refiner.first.weight[0] = 0
        head.refiner.second.weight[:, 1] = torch.tensor([[1.0, -1, 0], [0, 0, 0], [0, 0, 0]])
    cost = torch.rand(3, grid.rows * grid.cols, requires_grad=True)
    found = head(cost, grid)
    found.sum().backward()
    assert found.isfinite().all() and cost.grad.isfinite().all()


def test_the_smooth_start_is_a_sensible_average() -> None:
    """A symmetric hill of cost is found at its top, the channels already differ a little."""
    grid = TokenGrid(210, 210)
    centres = grid.centres().reshape(-1, 2)
    top = centres[7 * grid.cols + 8]
    cost = torch.exp(-(centres - top).square().sum(dim=1) / (2 * 20**2))[None]
    head = head_of("smooth")
    assert (head(cost, grid)[0] - top).norm() < 2
    assert head.refiner.first.weight.std(dim=0).min() > 0


def test_cosines_below_zero_count_as_zero() -> None:
    grid = TokenGrid(98, 98)
    generator = torch.Generator().manual_seed(0)
    cosine = 2 * torch.rand(5, grid.rows * grid.cols, generator=generator) - 1
    head = head_of("smooth")
    torch.testing.assert_close(head(cosine, grid), head(cosine.clamp(min=0), grid))
    assert not torch.allclose(head(cosine, grid), head(cosine.abs(), grid))


def test_cosines_are_products_of_unit_features_over_lengths() -> None:
    queries = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    tokens = torch.tensor([[[2.0, 0.0, -5.0], [0.0, 3.0, 0.0]]])
    expected = torch.tensor([[[1.0, 0.0, -1.0], [0.6, 0.8, -0.6]]])
    torch.testing.assert_close(cosines(queries, tokens, lengths(tokens)), expected)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("stride", "scale"), [(14, 1.0), (7, 1.0), (14, 1.5)])
def test_features_at_points_are_bilinear(
    height: int, width: int, stride: int, scale: float
) -> None:
    grid = TokenGrid(height, width, stride=stride, scale=scale)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.rand(3, 5, grid.rows * grid.cols, generator=generator)
    points = torch.rand(40, 2, generator=generator) * torch.tensor([width + 8, height + 8]) - 4
    frames = torch.randint(3, (40,), generator=generator)
    found = sample_tokens(tokens, frames, points, grid)
    maps = tokens.view(3, 5, grid.rows, grid.cols)
    for k, (frame, point) in enumerate(zip(frames, points)):
        expected = slow_sample(maps[frame], *point.tolist(), grid)
        torch.testing.assert_close(found[k], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_features_that_are_positions_give_positions_back(
    height: int, width: int, scale: float
) -> None:
    grid = TokenGrid(height, width, scale=scale)
    tokens = grid.centres().double().reshape(1, -1, 2).transpose(1, 2)
    corner = torch.tensor([width - 1.0, height - 1.0]).double()
    share = torch.rand(12, 2, generator=torch.Generator().manual_seed(0)).double()
    points = torch.cat([share * corner, torch.zeros(1, 2).double(), corner[None]])
    found = sample_tokens(tokens, torch.zeros(14).long(), points, grid)
    torch.testing.assert_close(found, points, atol=1e-4, rtol=0)


def test_features_at_points_pass_gradients_and_survive_nan() -> None:
    grid = TokenGrid(30, 40)
    tokens = torch.rand(2, 5, grid.rows * grid.cols, requires_grad=True)
    points = (20 * torch.rand(6, 2)).requires_grad_()
    frames = torch.tensor([0, 1, 0, 1, 1, 1])
    sample_tokens(tokens, frames, points, grid).square().sum().backward()
    assert tokens.grad is not None and all(frame.abs().sum() > 0 for frame in tokens.grad)
    assert points.grad is not None and (points.grad != 0).any(dim=1).all()
    nowhere = torch.full((6, 2), math.nan)
    assert sample_tokens(tokens, frames, nowhere, grid).isnan().all()


def test_points_are_predicted_in_the_frame_they_are_asked_for() -> None:
    """Every frame holds the same distinct tokens, moved by its number in columns."""
    grid = TokenGrid(84, 196)
    frames = 4
    first = torch.eye(grid.rows * grid.cols).view(-1, grid.rows, grid.cols)
    tokens = torch.stack([first.roll(t, dims=2) for t in range(frames)]).flatten(2)
    head = head_of("smooth", radius=1.0)
    where = grid.centres()
    start = torch.stack([where[2, 5], where[3, 6]])
    sources = torch.tensor([[0, 1], [2, 3], [1, 1]])
    targets = torch.tensor([3, 0, 1])
    length = lengths(tokens)
    found = predict(tokens, length, grid, head, sources, start.expand(3, 2, 2), targets)
    for g in range(3):
        for k in range(2):
            moved = start[k] + torch.tensor([14.0 * float(targets[g] - sources[g, k]), 0.0])
            torch.testing.assert_close(found[g, k], moved)
    sources, points = torch.zeros(4, 1).long(), start[:1].expand(4, 1, 2)
    to_all = predict(tokens, length, grid, head, sources, points)
    expected = start[0] + torch.tensor([[14.0 * t, 0.0] for t in range(4)])
    torch.testing.assert_close(to_all[:, 0], expected)
