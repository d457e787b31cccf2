"""Every setting of the tracker: one typed tree, checked when it is built, and its presets.

Command line, Python and ROS parameters all read this tree through `describe` and write it
through `with_values`; nothing about a setting is written a second time anywhere else.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

from dino_tracker_ros.tracking.errors import SettingError

Value = bool | int | float | str
S = TypeVar("S")


def setting(
    default: Value,
    description: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries its own description, unit and allowed values."""
    metadata = {
        "description": description,
        "unit": unit,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SettingInfo:
    """One setting as users see it; `name` is dotted, for example `optimizer.time_budget`."""

    name: str
    type: type
    value: Value
    description: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The allowed values in words, for messages and tables."""
        if self.choices:
            return " | ".join(self.choices)
        if self.type is bool:
            return "true | false"
        if self.minimum is None and self.maximum is None:
            return self.type.__name__
        low = "" if self.minimum is None else f"{self.minimum:g}"
        high = "" if self.maximum is None else f"{self.maximum:g}"
        return f"{low}..{high}"


class SettingGroup:
    """A frozen dataclass of settings that checks every value when it is built.

    Raises:
        SettingError: a value is of the wrong type or outside its range.
    """

    def __post_init__(self) -> None:
        for info in _own_settings(self, prefix=""):
            checked = _checked(info, info.value, name=f"{type(self).__name__}.{info.name}")
            object.__setattr__(self, info.name, checked)


@dataclass(frozen=True)
class ClipSettings(SettingGroup):
    length: int = setting(48, "frames in one clip", unit="frames", minimum=2, maximum=1000)
    overlap: int = setting(
        16, "frames shared by consecutive clips", unit="frames", minimum=1, maximum=999
    )
    keyframes: int = setting(
        8, "most frames that are kept beside the clip, because points were asked for on them",
        unit="frames", minimum=0, maximum=100,
    )  # fmt: skip
    longest_side: int = setting(
        854, "longest image side the tracker works at, smaller images keep theirs; 0 never shrinks",
        unit="px", minimum=0, maximum=4096,
    )  # fmt: skip


@dataclass(frozen=True)
class BackboneSettings(SettingGroup):
    model: str = setting(
        "facebook/dinov2-small", "DINOv2 model id, or a folder with its model.safetensors"
    )
    weights: str = setting("", "file with the weights; empty looks in the cache, then online")
    block: int = setting(
        12, "transformer block whose tokens are refined and find points", minimum=1, maximum=40
    )
    placing_block: int = setting(
        8, "block whose frozen tokens place points, beside those of the first; 0 for none",
        minimum=0, maximum=40,
    )  # fmt: skip
    placing_scale: float = setting(
        1.5, "how many times larger a picture the tokens that place points see",
        minimum=1, maximum=4,
    )  # fmt: skip
    stride: int = setting(
        14, "distance between neighbouring tokens", unit="px", minimum=2, maximum=14
    )
    every: int = setting(
        1, "the network looks at every so many frames, and at those that points are asked for on; "
        "through the others flow and registration lead alone; at all where hypotheses.enabled is "
        "false or inference.occlusion anchors",
        unit="frames", minimum=1, maximum=8,
    )  # fmt: skip
    final_norm: bool = setting(False, "apply DINOv2's last layer norm to the tokens")
    batch: int = setting(4, "frames in one pass", unit="frames", minimum=1, maximum=256)


@dataclass(frozen=True)
class FlowSettings(SettingGroup):
    method: str = setting(
        "dis", "optical flow: RAFT large, RAFT small, or OpenCV's DIS (no weights)",
        choices=("raft_large", "raft_small", "dis"),
    )  # fmt: skip
    weights: str = setting("", "file with RAFT's weights; empty looks in the cache, then online")
    updates: int = setting(12, "RAFT's recurrent updates", minimum=1, maximum=64)
    steadied: bool = setting(
        True, "where pictures tell nothing of flow, take the dominant motion; false as published"
    )


@dataclass(frozen=True)
class TrajectorySettings(SettingGroup):
    spacing: int = setting(
        4, "distance between the pixels where trajectories start", unit="px", minimum=1, maximum=64
    )
    loop_error: float = setting(
        1.5, "largest forward-backward error of a valid step", unit="px", minimum=0.01, maximum=100
    )
    direct_error: float = setting(
        2.5, "largest distance between chained and direct flow",
        unit="px", minimum=0.01, maximum=100,
    )  # fmt: skip
    direct_flow: str = setting(
        "none", "frames that direct flow checks: all, at distances 2, 4, 8…, or none",
        choices=("all", "log", "none"),
    )  # fmt: skip


@dataclass(frozen=True)
class BestBuddySettings(SettingGroup):
    pairs: int = setting(
        64, "frame pairs searched; 0 searches every pair",
        unit="pairs", minimum=0, maximum=1_000_000,
    )  # fmt: skip
    peak_box: float = setting(
        30.0, "half-size of the boxes that suppress neighbours of a peak",
        unit="px", minimum=1, maximum=1000,
    )  # fmt: skip
    peak_overlap: float = setting(0.2, "IoU above which a box is suppressed", minimum=0, maximum=1)
    peak_candidates: int = setting(
        400, "most similar tokens among which a second peak is looked for",
        unit="tokens", minimum=2, maximum=100_000,
    )  # fmt: skip


@dataclass(frozen=True)
class ForegroundSettings(SettingGroup):
    source: str = setting(
        "saliency", "what balances sampling: features' first principal component, or nothing",
        choices=("saliency", "none"),
    )  # fmt: skip
    flow_share: float = setting(
        0.5, "share of flow samples in the foreground", minimum=0, maximum=1
    )
    best_buddy_share: float = setting(
        0.7, "share of best buddies and cycle points in the foreground", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class DeltaDinoSettings(SettingGroup):
    width: int = setting(
        16, "channels of the first layer; the next two have twice and four times as many",
        unit="channels", minimum=4, maximum=256,
    )  # fmt: skip
    kernel: int = setting(3, "kernel side of every convolution", unit="px", minimum=3, maximum=9)
    downscale: int = setting(
        2, "how many times smaller a picture Delta-DINO sees", minimum=1, maximum=4
    )


@dataclass(frozen=True)
class HeadSettings(SettingGroup):
    radius: float = setting(
        35.0, "radius of the disc around the best match in which the position is averaged",
        unit="px", minimum=1, maximum=1000,
    )  # fmt: skip
    channels: int = setting(
        16, "hidden channels of the cost refiner", unit="channels", minimum=1, maximum=256
    )
    initialization: str = setting(
        "smooth", "first kernels of the cost refiner: random (as published) or one smooth bump",
        choices=("random", "smooth"),
    )  # fmt: skip


@dataclass(frozen=True)
class LossSettings(SettingGroup):
    flow: float = setting(1.0, "weight of the flow loss", minimum=0, maximum=1e6)
    flow_contrast: float = setting(
        0.01, "weight of the contrastive loss on flow trajectories; 0 as published",
        minimum=0, maximum=1e6,
    )  # fmt: skip
    cycle: float = setting(0.5, "weight of the cycle-consistency loss", minimum=0, maximum=1e6)
    dino_best_buddies: float = setting(
        2.5e-4, "weight of the contrastive loss on DINO best buddies", minimum=0, maximum=1e6
    )
    refined_best_buddies: float = setting(
        5e-5, "weight of the contrastive loss on refined best buddies", minimum=0, maximum=1e6
    )
    norm: float = setting(1e-4, "weight of the prior on feature norms", minimum=0, maximum=1e6)
    angle: float = setting(1e-4, "weight of the prior on feature angles", minimum=0, maximum=1e6)
    huber: float = setting(
        1 / 32, "error at which the Huber loss turns linear, in loss coordinates",
        minimum=1e-6, maximum=10,
    )  # fmt: skip
    temperature: float = setting(
        0.1, "softmax temperature of the contrastive losses", minimum=1e-3, maximum=10
    )
    cycle_error: float = setting(
        4.0, "longest round trip that the cycle loss learns from",
        unit="px", minimum=0.1, maximum=1000,
    )  # fmt: skip
    cycle_decay: float = setting(
        0.8, "weight of a round trip per pixel of its error", minimum=0, maximum=1
    )
    self_supervised_start: float = setting(
        0.5, "share of the optimization after which cycle and refined best buddies join",
        minimum=0, maximum=1,
    )  # fmt: skip


@dataclass(frozen=True)
class OptimizerSettings(SettingGroup):
    iterations: int = setting(
        100, "most iterations for a clip", unit="iterations", minimum=0, maximum=1_000_000
    )
    warm_iterations: int = setting(
        10, "most iterations for a clip that overlaps the one before",
        unit="iterations", minimum=0, maximum=1_000_000,
    )  # fmt: skip
    time_budget: float = setting(
        0.0, "seconds for a clip's optimization, kept to the nearest iteration; 0 sets no limit",
        unit="s", minimum=0, maximum=86_400,
    )  # fmt: skip
    learning_rate: float = setting(0.01, "Adam's learning rate", minimum=1e-7, maximum=1)
    schedule: str = setting(
        "cosine", "learning rate over time: one-cycle cosine, or the published slow decay",
        choices=("cosine", "published"),
    )  # fmt: skip
    frames: int = setting(
        4, "frames sampled in one iteration", unit="frames", minimum=2, maximum=64
    )
    flow_points: int = setting(
        512, "flow samples in one iteration, half of them foreground",
        unit="points", minimum=1, maximum=100_000,
    )  # fmt: skip
    pair_points: int = setting(
        256, "best buddies and cycle points per frame pair",
        unit="points", minimum=1, maximum=10_000,
    )  # fmt: skip
    seed: int = setting(0, "seed of everything random", minimum=0, maximum=2**31 - 1)


@dataclass(frozen=True)
class HypothesesSettings(SettingGroup):
    enabled: bool = setting(
        True, "follow several paths a point through flow and matches; false as published"
    )
    candidates: int = setting(
        8, "matches looked at in a frame", unit="matches", minimum=1, maximum=100
    )
    kept: int = setting(8, "paths kept from frame to frame", unit="paths", minimum=1, maximum=100)
    match_error: float = setting(
        0.3, "error of a feature match", unit="tokens", minimum=0.001, maximum=100
    )
    flow_error: float = setting(
        0.2, "error of one flow step whose loop closes", unit="px", minimum=0.001, maximum=1000
    )
    gate: float = setting(
        3.0, "standard deviations within which a match corrects a path", minimum=0.1, maximum=1000
    )
    temperature: float = setting(
        0.02, "cosine lost to the frame's best match that costs 1", minimum=1e-4, maximum=10
    )
    way_back: float = setting(
        0.5, "price of a match that another point of the query's frame fits better, per price of "
        "as much cosine", minimum=0, maximum=100,
    )  # fmt: skip
    most_price: float = setting(10.0, "most that features cost in a frame", minimum=0, maximum=1e4)
    lost_price: float = setting(
        3.0, "most that flow which does not close its loop costs in a frame; out of the image "
        "jump_price comes on top", minimum=0, maximum=1e4,
    )  # fmt: skip
    jump_price: float = setting(
        6.0, "price of leaving flow for another match beside it", minimum=0, maximum=1e4
    )
    jump_growth: float = setting(
        4.0, "what its distance d adds to that, times ln(1 + (d/2 tokens)^2)",
        minimum=0, maximum=1e4,
    )  # fmt: skip


@dataclass(frozen=True)
class RegistrationSettings(SettingGroup):
    enabled: bool = setting(
        True, "register the query's image patch in every frame; false as published"
    )
    longest_side: int = setting(
        640, "longest side of the picture that patches are cut from",
        unit="px", minimum=32, maximum=4096,
    )  # fmt: skip
    radius: int = setting(
        10, "half the side of a patch, in that picture", unit="px", minimum=2, maximum=100
    )
    likeness: float = setting(
        0.85, "correlation with the query's patch from which a registration is accepted, at full "
        "sharpness or, in a blurred picture, at half of it; less where a faint patch lies in noise",
        minimum=0, maximum=1,
    )  # fmt: skip
    reach: float = setting(
        16.0, "how far from where it is looked for a patch may be found, in that picture",
        unit="px", minimum=0.1, maximum=1000,
    )  # fmt: skip
    error: float = setting(
        0.3, "error of a registration beside the one that its fit tells, in that picture",
        unit="px", minimum=0.001, maximum=100,
    )  # fmt: skip
    reward: float = setting(
        5.0, "what a registration takes off a path's price at most: it is worth the logarithm of "
        "the odds that it is right", minimum=0, maximum=1e4,
    )  # fmt: skip
    rounds: int = setting(
        2, "times that paths and registrations correct each other", minimum=1, maximum=10
    )


@dataclass(frozen=True)
class InferenceSettings(SettingGroup):
    residual_share: float = setting(
        0.5,
        "share of what Delta-DINO has learnt that tracks use: less stays closer to frozen features",
        minimum=0, maximum=1,
    )  # fmt: skip
    occlusion: str = setting(
        "round_trip",
        "what tells occlusion: the way back to the query, or agreement among anchors, as published",
        choices=("round_trip", "anchors"),
    )
    round_trip: float = setting(
        1.5, "round trip from which a point counts as occluded where there is no registration",
        unit="tokens", minimum=0.01, maximum=1000,
    )  # fmt: skip
    visible_cosine: float = setting(
        0.5, "cosine with the query below which a point counts as occluded: by anchors, or where "
        "there is no registration", minimum=-1, maximum=1,
    )  # fmt: skip
    anchor_cosine: float = setting(
        0.7, "cosine from which a frame is an anchor, always visible", minimum=-1, maximum=1
    )
    batch: int = setting(
        1024, "query points tracked at once", unit="points", minimum=1, maximum=100_000
    )


@dataclass(frozen=True)
class QuerySettings(SettingGroup):
    grid_spacing: int = setting(
        32, "distance between grid points; 0 tracks no grid", unit="px", minimum=0, maximum=4096
    )
    maximum: int = setting(
        4096, "most points tracked at once", unit="points", minimum=1, maximum=1_000_000
    )
    patience: int = setting(
        3, "clips in a row in which a point is not seen until it is given up",
        unit="clips", minimum=1, maximum=1_000_000,
    )  # fmt: skip


@dataclass(frozen=True)
class Settings(SettingGroup):
    """The whole tree. Change it with `with_values` or `dataclasses.replace`."""

    device: str = setting(
        "auto", "where the model runs: auto, cpu, cuda or cuda:N; auto takes a GPU if there is one"
    )
    precision: str = setting(
        "auto", "arithmetic of large products: auto takes bfloat16 where it is faster",
        choices=("auto", "float32", "bfloat16"),
    )  # fmt: skip
    clip: ClipSettings = field(default_factory=ClipSettings)
    queries: QuerySettings = field(default_factory=QuerySettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    flow: FlowSettings = field(default_factory=FlowSettings)
    trajectories: TrajectorySettings = field(default_factory=TrajectorySettings)
    best_buddies: BestBuddySettings = field(default_factory=BestBuddySettings)
    foreground: ForegroundSettings = field(default_factory=ForegroundSettings)
    delta_dino: DeltaDinoSettings = field(default_factory=DeltaDinoSettings)
    head: HeadSettings = field(default_factory=HeadSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    hypotheses: HypothesesSettings = field(default_factory=HypothesesSettings)
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip.overlap >= self.clip.length:
            raise SettingError(
                f"clip.overlap is {self.clip.overlap} frames, clip.length is {self.clip.length}: "
                "make the overlap smaller than the clip"
            )
        if self.inference.visible_cosine > self.inference.anchor_cosine:
            raise SettingError(
                f"inference.visible_cosine is {self.inference.visible_cosine:g}, above "
                f"inference.anchor_cosine {self.inference.anchor_cosine:g}: lower the first"
            )
        if self.delta_dino.kernel % 2 == 0:
            raise SettingError(
                f"delta_dino.kernel is {self.delta_dino.kernel}: use an odd number of pixels"
            )


PRESETS: dict[str, dict[str, Value]] = {
    # As published (Tumanyan et al. 2024, sec. 4 and supplement); docs/METHOD.md lists deviations.
    "paper": {
        "backbone.model": "facebook/dinov2-large",
        "backbone.block": 16,
        "backbone.placing_block": 0,
        "backbone.placing_scale": 1.0,
        "backbone.stride": 7,
        "flow.method": "raft_large",
        "flow.updates": 24,
        "flow.steadied": False,
        "trajectories.spacing": 1,
        "trajectories.direct_flow": "all",
        "head.initialization": "random",
        "optimizer.iterations": 10_000,
        "optimizer.warm_iterations": 10_000,
        "optimizer.schedule": "published",
        "optimizer.frames": 8,
        "optimizer.flow_points": 1024,
        "loss.cycle": 0.25,  # published as 0.5 on two halves, one of which is always zero
        "precision": "float32",
        "hypotheses.enabled": False,
        "registration.enabled": False,
        "delta_dino.width": 64,
        "delta_dino.kernel": 5,
        "delta_dino.downscale": 1,
        "best_buddies.pairs": 0,
        "loss.flow_contrast": 0.0,
        "inference.residual_share": 1.0,
        "inference.occlusion": "anchors",
        "inference.visible_cosine": 0.6,
    },
    "robot": {},
    "cpu": {
        "clip.longest_side": 640,
        "backbone.placing_scale": 1.0,
        "backbone.every": 2,
        # A smaller picture knows less beforehand (RESULTS).
        "optimizer.iterations": 30,
        "optimizer.warm_iterations": 3,
        "inference.residual_share": 1.0,
        # Flow teaches alone: the others take a third of the time and move no score beyond chance.
        "loss.dino_best_buddies": 0.0,
        "loss.refined_best_buddies": 0.0,
        "loss.cycle": 0.0,
        "loss.norm": 0.0,
        "loss.angle": 0.0,
    },
}


def preset(name: str) -> Settings:
    """The settings of a preset: `paper`, `robot` or `cpu`.

    Raises:
        SettingError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise SettingError(f"preset is '{name}': choose one of {', '.join(PRESETS)}")
    return with_values(Settings(), PRESETS[name])


def describe(settings: object) -> list[SettingInfo]:
    """All settings of a tree, flat, with dotted names, in the order they are declared."""
    return list(_walk(settings, prefix=""))


def with_values(settings: S, values: Mapping[str, object]) -> S:
    """A copy of the tree with some settings changed.

    Args:
        settings: any dataclass of settings, nested as deep as it likes.
        values: dotted names to values; text is converted to the setting's type.

    Raises:
        SettingError: a name is unknown or a value not allowed; nothing is changed then.
    """
    known = {info.name: info for info in describe(settings)}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingError(f"there is no setting '{name}'{_suggestion(name, known)}")
        changes[name] = _checked(known[name], value)
    return _rebuilt(settings, changes, prefix="")


def _own_settings(group: object, prefix: str) -> Iterator[SettingInfo]:
    for item in fields(group):  # type: ignore[arg-type]
        if "description" in item.metadata:
            # Annotations are text (PEP 563), so the default tells the type.
            yield SettingInfo(
                name=prefix + item.name,
                type=type(item.default),
                value=getattr(group, item.name),
                **item.metadata,
            )


def _walk(group: object, prefix: str) -> Iterator[SettingInfo]:
    yield from _own_settings(group, prefix)
    for item in fields(group):  # type: ignore[arg-type]
        value = getattr(group, item.name)
        if is_dataclass(value):
            yield from _walk(value, prefix=f"{prefix}{item.name}.")


def _rebuilt(group: S, changes: Mapping[str, Any], prefix: str) -> S:
    replaced: dict[str, Any] = {}
    for item in fields(group):  # type: ignore[arg-type]
        name = prefix + item.name
        value = getattr(group, item.name)
        if is_dataclass(value):
            replaced[item.name] = _rebuilt(value, changes, prefix=f"{name}.")
        elif name in changes:
            replaced[item.name] = changes[name]
    return dataclasses.replace(group, **replaced)  # type: ignore[type-var]


def _checked(info: SettingInfo, value: object, name: str = "") -> Value:
    name = name or info.name
    converted = _converted(info, value, name)
    if info.choices and converted not in info.choices:
        raise SettingError(f"{name} is '{converted}': choose one of {', '.join(info.choices)}")
    if isinstance(converted, (int, float)) and not isinstance(converted, bool):
        low = info.minimum if info.minimum is not None else -math.inf
        high = info.maximum if info.maximum is not None else math.inf
        if not low <= converted <= high:  # also refuses NaN
            unit = f" {info.unit}" if info.unit else ""
            raise SettingError(f"{name} is {converted}: allowed is {info.allowed}{unit}")
    return converted


def _converted(info: SettingInfo, value: object, name: str) -> Value:
    wrong = SettingError(f"{name} is {value!r}: give a value of type {info.type.__name__}")
    if isinstance(value, str) and info.type is not str:
        text = value.strip().lower()
        if info.type is bool:
            if text not in ("true", "false"):
                raise wrong
            return text == "true"
        try:
            return info.type(text)
        except ValueError:
            raise wrong from None
    if info.type is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not info.type:
        raise wrong
    return value  # type: ignore[return-value]


def _suggestion(name: str, known: Mapping[str, SettingInfo]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
