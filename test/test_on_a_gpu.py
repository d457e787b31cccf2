"""What a GPU would be given: observed and tracked there, as far as main memory can pretend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from known_scene import TINY_VIT, quick
from pretended_gpu import GPU, MixedDevicesError, pretended

from dino_tracker_ros.evaluation import baselines as baselines_module
from dino_tracker_ros.evaluation.baselines import track_chained_flow
from dino_tracker_ros.evaluation.synthetic import SyntheticClip, make_clip
from dino_tracker_ros.tracking import tracker as tracker_module
from dino_tracker_ros.tracking.backbone import Backbone, random_network
from dino_tracker_ros.tracking.recording import unrecorded
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.weights import WeightsCache

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU: nothing to pretend"),
]

WAYS = {
    "as robot and cpu do": (
        {"backbone__placing_block": 2, "backbone__placing_scale": 1.5}, 170_000
    ),
    "without registration": ({"registration__enabled": False}, 33_000),
    "one match a frame, anchors": (
        {
            "hypotheses__enabled": False,
            "registration__enabled": False,
            "inference__occlusion": "anchors",
        },
        20_000,
    ),
}  # fmt: skip
"""Settings, and how many operations they may take: a GPU waits for each of them."""


@pytest.fixture(scope="module")
def clip() -> SyntheticClip:
    """Twelve frames in which something passes, with points asked for in three of them."""
    pytest.importorskip("skimage", reason="the photographs come with scikit-image")
    return make_clip(width=200, height=150, length=12, tracks=30)


def tracked(
    monkeypatch: pytest.MonkeyPatch, clip: SyntheticClip, settings: Settings, device: torch.device
) -> Tracks:
    """By a tracker with a small random ViT, and DIS, on a device."""

    def load(*_: object, blocks: Sequence[int], stride: int, **__: object) -> Backbone:
        network = random_network(TINY_VIT).to(device)
        return Backbone(network, blocks, stride, False, torch.float32, device)

    monkeypatch.setattr(tracker_module, "load_backbone", load)
    monkeypatch.setattr(tracker_module, "find_device", lambda _: device)
    tracker = DinoTracker(settings, WeightsCache())
    for frame in clip.frames:
        tracker.observe(frame)
    # The pretended one knows no way back: all but the gradients.
    monkeypatch.setattr(torch.Tensor, "backward", lambda _: None)
    tracker.fit()
    return tracker.track(clip.truth.queries)


@pytest.mark.parametrize(("way", "most"), WAYS.values(), ids=WAYS)
def test_a_gpu_tracks_what_a_cpu_does(
    monkeypatch: pytest.MonkeyPatch, clip: SyntheticClip, way: dict[str, object], most: int
) -> None:
    settings = quick(**way)
    expected = tracked(monkeypatch, clip, settings, torch.device("cpu"))
    with unrecorded(), pretended() as calls:
        found = tracked(monkeypatch, clip, settings, GPU)
    assert 1000 < sum(calls.values()) < most
    distance = np.linalg.norm(found.points - expected.points, axis=-1)
    assert np.quantile(distance, 0.99) < 0.05, distance.max()
    assert (found.occluded != expected.occluded).mean() < 0.01
    np.testing.assert_allclose(found.confidence, expected.confidence, atol=0.02)


def test_flow_that_stays_in_main_memory_is_chained_there(
    monkeypatch: pytest.MonkeyPatch, clip: SyntheticClip
) -> None:
    expected = track_chained_flow(clip.frames, clip.truth.queries, quick(), method="dis")
    monkeypatch.setattr(baselines_module, "find_device", lambda _: GPU)
    with pretended():
        found = track_chained_flow(clip.frames, clip.truth.queries, quick(), method="dis")
    np.testing.assert_allclose(found.points, expected.points, atol=1e-3)
    np.testing.assert_array_equal(found.occluded, expected.occluded)


def test_the_pretended_gpu_mixes_nothing() -> None:
    here = torch.ones(3)
    with pretended() as calls:
        there = here.to(GPU)
        assert there.device == GPU and there.is_cuda
        with pytest.raises(MixedDevicesError, match="add"):
            there + here
        with pytest.raises(TypeError, match="cpu"):
            there.numpy()
        twice = there + there
        np.testing.assert_array_equal(twice.cpu().numpy(), 2 * here.numpy())
        assert calls["add"] == 2
