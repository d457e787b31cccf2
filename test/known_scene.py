"""A scene that moves as it is told, seen by a backbone and a flow that make no mistakes.

Frame t is a picture of the single grey value t, so that both know which frame they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking import tracker as tracker_module
from dino_tracker_ros.tracking.backbone import Backbone, VitShape, random_network
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.flow import load_flow
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.weights import WeightsCache

QUICK: dict[str, object] = {
    "device": "cpu",
    "precision": "float32",
    "clip.longest_side": 0,
    "backbone.block": 1,
    "backbone.placing_block": 0,
    "backbone.placing_scale": 1.0,
    "backbone.stride": 14,
    "flow.method": "dis",
    "delta_dino.width": 4,
    "delta_dino.kernel": 3,
    "delta_dino.downscale": 1,
    "optimizer.iterations": 12,
    "optimizer.warm_iterations": 5,
    "optimizer.time_budget": 0.0,
    "optimizer.flow_points": 64,
    "optimizer.pair_points": 16,
}
"""Settings with which a fit takes a fraction of a second."""

TINY_VIT = VitShape(channels=64, depth=2, positions=5)


def quick(**values: object) -> Settings:
    """QUICK with some values changed; two underscores stand for the dot."""
    changes = {name.replace("__", "."): value for name, value in values.items()}
    return with_values(Settings(), {**QUICK, **changes})


class KnownBackbone:
    """Features that tell places of the scene apart.

    Args:
        motion: (x, y) px that the scene has moved by in each frame, [T, 2].
        stride: of the tokens, px.
        scale: [T], what each frame's features are multiplied with.
        size: (height, width) of the working picture, px, where it is shown in other sizes too.
    """

    channels = 48
    blocks = (1,)

    def __init__(
        self,
        motion: Sequence[Sequence[float]],
        stride: int,
        scale: Sequence[float] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        self.motion = torch.tensor(motion, dtype=torch.float32)
        self.stride = stride
        self.scale = [1.0] * len(motion) if scale is None else scale
        self.size = size
        generator = torch.Generator().manual_seed(0)
        # A cosine that falls to nothing within some 30 px.
        self.waves = torch.randn(2, self.channels // 2, generator=generator) / 15

    def grid(self, height: int, width: int) -> TokenGrid:
        return TokenGrid(height, width, 14, self.stride)

    def at(self, frame: int, places: Tensor) -> Tensor:
        """Features [..., C] of places (x, y) [..., 2] in a frame."""
        phase = (places - self.motion[frame]) @ self.waves
        code = torch.cat([phase.cos(), phase.sin()], dim=-1)
        return self.scale[frame] * code / math.sqrt(self.channels / 2)

    def features(self, images: Tensor, **_: Any) -> tuple[Tensor, ...]:
        height, width = images.shape[-2:]
        seen_height, seen_width = self.size or (height, width)
        larger = torch.tensor([width / seen_width, height / seen_height])
        places = (self.grid(height, width).centres() + 0.5) / larger - 0.5
        maps = [self.at(_number(image), places).permute(2, 0, 1) for image in images]
        return (torch.stack(maps),)


class KnownFlow:
    """The flow of the scene; `silent` makes it nonsense that closes no loop."""

    def __init__(self, motion: Sequence[Sequence[float]], silent: bool) -> None:
        self.motion = torch.tensor(motion, dtype=torch.float32)
        self.silent = silent

    def encode(self, images: Tensor) -> list[tuple[int, tuple[int, int]]]:
        return [(_number(image), tuple(image.shape[-2:])) for image in images]

    def flow(self, sources: Sequence[Any], targets: Sequence[Any]) -> Tensor:
        found = []
        for (source, size), (target, _) in zip(sources, targets):
            moved = self.motion[target] - self.motion[source]
            moved = torch.full((2,), 1e4) if self.silent else moved
            found.append(moved[:, None, None].expand(2, *size))
        return torch.stack(found)


def _number(image: Tensor) -> int:
    value = image.flatten()[0]
    return int(value if image.dtype == torch.uint8 else (value * 255).round())


def frames_of(count: int, height: int, width: int) -> list[Frame]:
    """Frames 0 to count - 1, a tenth of a second apart."""
    return [
        Frame(np.full((height, width, 3), t, np.uint8), t * 100_000_000) for t in range(count)
    ]


def known_tracker(
    monkeypatch: pytest.MonkeyPatch,
    motion: Sequence[Sequence[float]],
    settings: Settings,
    silent_flow: bool = False,
    scale: Sequence[float] | None = None,
    size: tuple[int, int] | None = None,
) -> DinoTracker:
    """A tracker of the scene, without frames."""
    backbone = KnownBackbone(motion, settings.backbone.stride, scale, size)
    monkeypatch.setattr(tracker_module, "load_backbone", lambda *_, **__: backbone)
    flow = KnownFlow(motion, silent_flow)
    monkeypatch.setattr(tracker_module, "load_flow", lambda *_, **__: flow)
    return DinoTracker(settings, WeightsCache())


def tiny_tracker(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> DinoTracker:
    """A tracker with a small random ViT and real DIS flow, which needs no weights."""

    def load(*_: object, blocks: Sequence[int], stride: int, **__: object) -> Backbone:
        network = random_network(TINY_VIT)
        return Backbone(network, blocks, stride, False, torch.float32, torch.device("cpu"))

    monkeypatch.setattr(tracker_module, "load_backbone", load)
    monkeypatch.setattr(tracker_module, "load_flow", load_flow)
    return DinoTracker(settings, WeightsCache())
