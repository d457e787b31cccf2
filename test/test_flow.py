"""Flow between frames: known motion, any size, and the original RAFT's own numbers."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.optical_flow import raft_large, raft_small

from dino_tracker_ros.tracking.errors import FrameError, SettingError, WeightsError
from dino_tracker_ros.tracking.flow import FlowEstimator, load_flow
from dino_tracker_ros.tracking.raft import Raft, load_raft
from dino_tracker_ros.tracking.raft_checkpoint import load_raft_checkpoint, with_torchvision_names
from dino_tracker_ros.tracking.weights import KNOWN_WEIGHTS, Weight, WeightsCache, WheelSource

CPU = torch.device("cpu")
RAFT = ("raft_large", "raft_small")

# What the original repository's code and checkpoints give for `turned_pair` after 6 updates, at
# pixels x = 16, 56, ... and y = 20, 60, ...: (x, y) px.
ORIGINAL = {
    "raft_large": [
        [[2.527, 1.653, 0.860, 0.176, -1.098], [1.274, 0.447, -0.301, -1.022, -1.898],
         [0.267, -0.781, -1.333, -2.560, -2.952], [-1.172, -2.122, -2.773, -3.610, -3.724]],
        [[1.351, 2.262, 3.559, 4.905, 6.191], [1.779, 3.304, 4.455, 5.538, 6.621],
         [2.516, 4.040, 5.022, 6.444, 7.250], [3.557, 4.614, 5.818, 6.703, 7.524]],
    ],
    "raft_small": [
        [[2.299, 1.662, 0.955, 0.559, -1.066], [1.240, 0.296, -0.680, -0.731, -1.801],
         [0.360, -1.186, -1.670, -2.431, -2.763], [-1.051, -2.177, -2.661, -3.469, -3.719]],
        [[1.727, 2.414, 3.648, 4.967, 6.127], [2.068, 3.252, 4.495, 5.439, 6.703],
         [2.270, 4.046, 4.857, 6.267, 7.169], [3.437, 4.717, 5.488, 6.473, 7.499]],
    ],
}  # fmt: skip


def as_tensor(photo: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(photo).permute(2, 0, 1)


def moved(picture: Tensor, matrix: Tensor) -> Tensor:
    """uint8 [3, H, W] seen through an affine map of its normalised coordinates."""
    grid = F.affine_grid(matrix[None], [1, *picture.shape], align_corners=True)
    found = F.grid_sample(picture[None].float(), grid, padding_mode="border", align_corners=True)
    return found[0].round().byte()


BLOCK = np.ones((8, 8, 1), np.uint8)


@pytest.fixture(scope="module")
def turned_pair(photo: NDArray[np.uint8]) -> Tensor:
    """A piece of a photograph, and the same piece after a turn, a stretch and a shift."""
    picture = as_tensor(photo)
    turned = moved(picture, torch.tensor([[1.02, 0.03, 0.02], [-0.03, 0.98, -0.03]]))
    return torch.stack([piece[:, 40:200, 150:342] for piece in (picture, turned)])


def shifted_pair(photo: NDArray[np.uint8], dx: float, dy: float) -> Tensor:
    """A piece of a photograph, and the same piece with its content moved by (dx, dy) px."""
    picture = as_tensor(photo)
    scale = 2 / (len(photo) - 1)
    shift = torch.tensor([[1.0, 0.0, -dx * scale], [0.0, 1.0, -dy * scale]])
    return torch.stack([piece[:, 40:240, 130:362] for piece in (picture, moved(picture, shift))])


def random_raft(method: str, updates: int = 2, batch: int = 1) -> Raft:
    torch.manual_seed(0)
    network = {"raft_large": raft_large, "raft_small": raft_small}[method](weights=None)
    return Raft(network, updates, torch.float32, CPU, batch)


def flow_between(estimator: FlowEstimator[Any], pair: Tensor) -> Tensor:
    first, second = estimator.encode(pair)
    return estimator.flow([first], [second])[0]


@pytest.mark.parametrize(
    ("method", "mean_error", "worst_percent"),
    [("raft_large", 0.1, 0.25), ("raft_small", 0.18, 0.45), ("dis", 0.1, 0.5)],
)
@pytest.mark.parametrize("shift", [(5.5, -3.25), (-12.0, 7.4)])
def test_a_known_shift(
    request: pytest.FixtureRequest,
    photo: NDArray[np.uint8],
    method: str,
    mean_error: float,
    worst_percent: float,
    shift: tuple[float, float],
) -> None:
    cache = WeightsCache() if method == "dis" else request.getfixturevalue("weights_cache")
    estimator = load_flow(method, cache=cache, updates=12, device=CPU)
    pair = shifted_pair(photo, *shift)
    there, back = estimator.encode(pair)
    flows = estimator.flow([there, back], [back, there])
    expected = torch.tensor([shift, (-shift[0], -shift[1])]).view(2, 2, 1, 1)
    # What leaves the picture cannot be seen.
    error = (flows - expected).norm(dim=1)[:, 16:-16, 16:-16]
    assert error.mean() < mean_error
    assert error.flatten().quantile(0.99) < worst_percent


@pytest.mark.parametrize("method", RAFT)
def test_the_original_repository_gives_the_same_flow(
    weights_cache: WeightsCache, turned_pair: Tensor, method: str
) -> None:
    estimator = load_flow(method, cache=weights_cache, updates=6, device=CPU)
    found = flow_between(estimator, turned_pair)[:, 20::40, 16::40]
    torch.testing.assert_close(found, torch.tensor(ORIGINAL[method]), atol=0.01, rtol=0)


@pytest.mark.parametrize("method", RAFT)
def test_every_tensor_of_an_original_checkpoint_has_its_place(
    weights_cache: WeightsCache, method: str
) -> None:
    (weight,) = [weight for weight in KNOWN_WEIGHTS if weight.name == method]
    packaged = tuple(source for source in weight.sources if isinstance(source, WheelSource))
    cache = WeightsCache(weights_cache.folder, [Weight(method, packaged)])
    try:
        path = cache.path(method)
    except WeightsError as error:
        pytest.skip(f"needs the original checkpoint: {error}")
    original = torch.load(path, map_location="cpu", weights_only=True)
    renamed = with_torchvision_names(original)
    network = {"raft_large": raft_large, "raft_small": raft_small}[method](weights=None)
    network.load_state_dict(renamed, strict=True)
    # The norms of two shortcuts are stored twice in the large model; all else exactly once.
    twice = len(original) - len(renamed)
    assert twice == (10 if method == "raft_large" else 0)
    assert sum(tensor.numel() for tensor in renamed.values()) == sum(
        tensor.numel() for tensor in network.state_dict().values()
    )


@pytest.mark.parametrize("method", RAFT)
def test_pairs_at_once_are_pairs_one_by_one(turned_pair: Tensor, method: str) -> None:
    frames = torch.cat([turned_pair, turned_pair.flip(-1)])[:3]
    single, several = random_raft(method), random_raft(method, batch=2)
    a, b, c = single.encode(frames)
    expected = single.flow([a, b, a], [b, a, c])
    a, b, c = several.encode(frames)
    torch.testing.assert_close(several.flow([a, b, a], [b, a, c]), expected, atol=1e-4, rtol=1e-4)


def test_twins_that_differ_are_refused() -> None:
    names = ("module.cnet.layer2.0.norm3.weight", "module.cnet.layer2.0.downsample.1.weight")
    same = with_torchvision_names({name: torch.ones(3) for name in names})
    assert list(same) == ["context_encoder.layer2.0.downsample.1.weight"]
    with pytest.raises(WeightsError, match="two different tensors"):
        with_torchvision_names({names[0]: torch.ones(3), names[1]: torch.zeros(3)})


@pytest.mark.parametrize("method", RAFT)
def test_encoding_once_changes_nothing(turned_pair: Tensor, method: str) -> None:
    estimator = random_raft(method)
    images = turned_pair.float() / 255
    network = estimator._network
    with torch.no_grad():
        expected = network(2 * images - 1, 2 * images.flip(0) - 1, num_flow_updates=2)[-1]
    first, second = estimator.encode(turned_pair)
    flows = estimator.flow([first, second], [second, first])
    torch.testing.assert_close(flows, expected, atol=1e-4, rtol=1e-4)
    # The same frames again, and as numbers in 0..1.
    assert torch.equal(flow_between(estimator, turned_pair), flows[0])
    torch.testing.assert_close(flow_between(estimator, images), flows[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", [*RAFT, "dis", "dis_fast", "dis_ultrafast"])
@pytest.mark.parametrize("size", [(135, 240), (240, 135), (130, 121), (14, 14), (9, 200), (1, 1)])
def test_every_size_and_aspect(method: str, size: tuple[int, int]) -> None:
    estimator: FlowEstimator[Any] = (
        random_raft(method, updates=1)
        if method in RAFT
        else load_flow(method, cache=WeightsCache(), device=CPU)
    )
    pair = (torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 255).byte()
    found = flow_between(estimator, pair)
    assert found.shape == (2, *size)
    assert found.dtype == torch.float32
    assert found.isfinite().all()


@pytest.mark.parametrize("method", ["raft_small", "dis"])
def test_a_still_odd_sized_picture_stays_still(
    request: pytest.FixtureRequest, photo: NDArray[np.uint8], method: str
) -> None:
    cache = WeightsCache() if method == "dis" else request.getfixturevalue("weights_cache")
    estimator = load_flow(method, cache=cache, device=CPU)
    still = as_tensor(photo)[None, :, 50:185, 100:233].expand(2, -1, -1, -1)
    assert flow_between(estimator, still).abs().max() < 0.3


@pytest.mark.parametrize("method", RAFT)
def test_bfloat16_changes_little(
    weights_cache: WeightsCache, turned_pair: Tensor, method: str
) -> None:
    flows = [
        flow_between(
            load_flow(method, cache=weights_cache, updates=6, precision=precision, device=CPU),
            turned_pair,
        )
        for precision in (torch.float32, torch.bfloat16)
    ]
    assert flows[1].dtype == torch.float32
    assert (flows[0] - flows[1]).norm(dim=0).mean() < 0.05


def test_dis_in_several_threads_is_dis_in_one() -> None:
    random = np.random.default_rng(0)
    scene = torch.from_numpy(np.kron(random.integers(0, 255, (16, 24, 3), np.uint8), BLOCK))
    pictures = torch.stack([scene[t : t + 96, 2 * t : 2 * t + 150] for t in range(8)])
    dis = load_flow("dis", cache=WeightsCache(), device=torch.device("cpu"))
    frames = dis.encode(pictures.permute(0, 3, 1, 2))
    pairs = [([a], [b]) for a in frames for b in frames if a is not b]
    alone = [dis.flow(*pair) for pair in pairs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pair: dis.flow(*pair), pairs))
    assert alone[0].abs().max() > 0.5
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_unknown_methods_and_wrong_images() -> None:
    with pytest.raises(SettingError, match=r"flow\.method is 'farneback': give one of raft_large"):
        load_flow("farneback", cache=WeightsCache(), device=CPU)
    for estimator in (
        random_raft("raft_small"),
        load_flow("dis", cache=WeightsCache(), device=CPU),
    ):
        with pytest.raises(FrameError, match=r"give \[T, 3, height, width\]"):
            estimator.encode(torch.zeros(2, 1, 20, 20))


class Harmful:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("code in a checkpoint was run",))


@pytest.mark.parametrize(
    "content",
    [
        b"text",
        pickle.dumps(Harmful(), protocol=2),
        "harmful",
        [1, 2],
        {"a": 1},
        {"module.a": torch.ones(1)},
    ],
)
def test_files_that_are_no_checkpoint(tmp_path: Path, content: object) -> None:
    path = tmp_path / "raft.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(Harmful() if content == "harmful" else content, path)
    with pytest.raises(WeightsError, match=r"raft\.pth"):
        load_raft("raft_small", path, updates=1, precision=torch.float32, device=CPU)


def test_the_small_networks_weights_are_not_the_large_ones(tmp_path: Path) -> None:
    path = tmp_path / "small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    assert set(load_raft_checkpoint(path)) == set(raft_small(weights=None).state_dict())
    with pytest.raises(WeightsError, match="not a checkpoint of raft_large"):
        load_flow("raft_large", cache=WeightsCache(), weights=str(path), device=CPU)
