"""The node's own settings, beside those of the tracker; knows neither rclpy nor ROS."""

from __future__ import annotations

from dataclasses import dataclass, field

from dino_tracker_ros.tracking.settings import PRESETS, SettingGroup, setting

AUTO_PRESET = "auto"


@dataclass(frozen=True)
class StartSettings(SettingGroup):
    """Read once, when the node starts."""

    autostart: bool = setting(True, "configure and activate the node when it starts")
    preset: str = setting(
        AUTO_PRESET, "defaults of the tracker's settings; auto takes robot with a GPU, else cpu",
        choices=(AUTO_PRESET, *PRESETS),
    )  # fmt: skip


@dataclass(frozen=True)
class ImageSettings(SettingGroup):
    transport: str = setting(
        "raw", "image topic's type: image_raw or image_raw/compressed",
        choices=("raw", "compressed"),
    )  # fmt: skip
    reliability: str = setting(
        "auto", "QoS of image and depth subscriptions; auto takes what the publishers offer",
        choices=("auto", "best_effort", "reliable"),
    )  # fmt: skip
    qos_depth: int = setting(
        20, "images that the middleware keeps until they are read",
        unit="images", minimum=1, maximum=1000,
    )  # fmt: skip
    timeout: float = setting(
        2.0, "time without an image after which diagnostics warn",
        unit="s", minimum=0.1, maximum=3600,
    )  # fmt: skip


@dataclass(frozen=True)
class StreamSettings(SettingGroup):
    """How frames become clips; shares the prefix `clip` with the tracker's ClipSettings."""

    queue: int = setting(
        60, "frames that wait while the tracker is busy", unit="frames", minimum=1, maximum=10_000
    )
    drop: str = setting(
        "oldest", "which frame goes when the queue is full", choices=("oldest", "newest")
    )
    max_rate: float = setting(
        0.0, "frames beyond this rate are left out; 0 takes all",
        unit="Hz", minimum=0, maximum=1000,
    )  # fmt: skip
    jump_back: float = setting(
        0.2, "a stamp further back than this begins a new stream; a nearer one is a late frame",
        unit="s", minimum=0, maximum=3600,
    )  # fmt: skip
    flush_after: float = setting(
        2.0, "time without an image after which an unfinished clip is tracked; 0 waits forever",
        unit="s", minimum=0, maximum=3600,
    )  # fmt: skip
    minimum_frames: int = setting(
        4, "new frames that an unfinished clip needs to be tracked",
        unit="frames", minimum=1, maximum=1000,
    )  # fmt: skip


@dataclass(frozen=True)
class DepthSettings(SettingGroup):
    enabled: bool = setting(
        False, "synchronise depth/image_raw and camera_info with the image (needs message_filters)"
    )
    max_delay: float = setting(
        0.02, "largest difference in time between an image and its depth",
        unit="s", minimum=0, maximum=10,
    )  # fmt: skip


@dataclass(frozen=True)
class MaskSettings(SettingGroup):
    """Queries from a mask; shares the prefix `queries` with the tracker's QuerySettings."""

    mask_spacing: int = setting(
        16, "distance between the points tracked inside a query mask",
        unit="px", minimum=1, maximum=4096,
    )  # fmt: skip


@dataclass(frozen=True)
class NodeSettings(SettingGroup):
    """What only the node has; the rest are the tracker's `Settings`."""

    image: ImageSettings = field(default_factory=ImageSettings)
    clip: StreamSettings = field(default_factory=StreamSettings)
    queries: MaskSettings = field(default_factory=MaskSettings)
    depth: DepthSettings = field(default_factory=DepthSettings)
