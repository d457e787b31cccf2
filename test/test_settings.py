"""The settings tree: every value checked, every name known, presets and text conversion."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dino_tracker_ros.tracking.errors import SettingError, TrackerError
from dino_tracker_ros.tracking.settings import (
    PRESETS,
    ClipSettings,
    DeltaDinoSettings,
    SettingGroup,
    SettingInfo,
    Settings,
    describe,
    preset,
    setting,
    with_values,
)

EVERY = describe(Settings())
NUMBERS = [info for info in EVERY if info.type in (int, float)]
# What a setting's neighbour must be for its limit to be allowed.
ROOM = {
    "clip.length": {"clip.overlap": 1},
    "clip.overlap": {"clip.length": 1000},
    "inference.anchor_cosine": {"inference.visible_cosine": -1.0},
    "inference.visible_cosine": {"inference.anchor_cosine": 1.0},
}


def name_of(info: SettingInfo) -> str:
    return info.name


def value_of(settings: Settings, name: str) -> object:
    return {info.name: info.value for info in describe(settings)}[name]


def just_beyond(info: SettingInfo, limit: float, direction: float) -> float | int:
    return int(limit + direction) if info.type is int else math.nextafter(limit, direction * 1e300)


def test_every_setting_is_described_once() -> None:
    names = [info.name for info in EVERY]
    assert len(names) == len(set(names)) > 40
    for info in EVERY:
        assert info.description
        assert info.type in (bool, int, float, str)
        assert type(info.value) is info.type
        assert info.allowed


def test_every_number_has_both_limits() -> None:
    for info in NUMBERS:
        assert info.minimum is not None, info.name
        assert info.maximum is not None, info.name
        assert info.minimum <= info.value <= info.maximum, info.name


def test_the_tree_holds_every_group_that_users_are_told_of() -> None:
    groups = {info.name.partition(".")[0] for info in EVERY if "." in info.name}
    assert groups >= {
        "clip", "queries", "backbone", "flow", "trajectories", "best_buddies", "foreground",
        "delta_dino", "head", "loss", "optimizer", "inference", "hypotheses", "registration",
    }  # fmt: skip


@pytest.mark.parametrize("info", NUMBERS, ids=name_of)
def test_a_number_at_its_limits_is_taken(info: SettingInfo) -> None:
    for limit in (info.minimum, info.maximum):
        assert limit is not None
        value = info.type(limit)
        changed = with_values(Settings(), {**ROOM.get(info.name, {}), info.name: value})
        assert value_of(changed, info.name) == value


@pytest.mark.parametrize("info", NUMBERS, ids=name_of)
def test_a_number_beyond_its_limits_is_refused(info: SettingInfo) -> None:
    assert info.minimum is not None
    assert info.maximum is not None
    beyond = [just_beyond(info, info.minimum, -1.0), just_beyond(info, info.maximum, 1.0)]
    if info.type is float:
        beyond += [math.nan, math.inf, -math.inf]
    for value in beyond:
        with pytest.raises(SettingError) as error:
            with_values(Settings(), {**ROOM.get(info.name, {}), info.name: value})
        message = str(error.value)
        assert info.name in message
        assert str(value) in message
        assert info.allowed in message
        assert info.unit in message


@pytest.mark.parametrize("info", EVERY, ids=name_of)
def test_a_value_of_another_type_is_refused(info: SettingInfo) -> None:
    wrong: dict[type, list[object]] = {
        bool: [0, 1, 1.0, None, "yes", ""],
        int: [1.0, True, None, "1.5", "many", "", math.nan, [1]],
        float: [True, None, "much", "", "nan", "inf", [1.0]],
        str: [1, True, None, 1.5],
    }
    for value in wrong[info.type]:
        with pytest.raises(SettingError, match=info.name.replace(".", r"\.")):
            with_values(Settings(), {info.name: value})


@pytest.mark.parametrize("info", EVERY, ids=name_of)
def test_text_is_converted_to_the_settings_own_type(info: SettingInfo) -> None:
    text = str(info.value).lower() if info.type is bool else str(info.value)
    assert value_of(with_values(Settings(), {info.name: text}), info.name) == info.value


def test_text_may_carry_spaces_capitals_and_exponents() -> None:
    changed = with_values(
        Settings(),
        {
            "backbone.final_norm": " True ",
            "clip.length": " 32 ",
            "loss.norm": "1e-3",
            "optimizer.time_budget": 4,
        },
    )
    assert changed.backbone.final_norm is True
    assert changed.clip.length == 32
    assert changed.loss.norm == 1e-3
    assert type(changed.optimizer.time_budget) is float


@pytest.mark.parametrize("info", [i for i in EVERY if i.choices], ids=name_of)
def test_choices_are_the_only_values(info: SettingInfo) -> None:
    for choice in info.choices:
        assert value_of(with_values(Settings(), {info.name: choice}), info.name) == choice
    with pytest.raises(SettingError, match="choose one of") as error:
        with_values(Settings(), {info.name: "something else"})
    for part in (info.name, "something else", *info.choices):
        assert part in str(error.value)


@pytest.mark.parametrize("name", ["optimiser.seed", "clip.lenght", "nonsense", "", "clip", "clip."])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(SettingError, match="no setting") as error:
        with_values(Settings(), {name: 1})
    assert f"'{name}'" in str(error.value)


def test_a_misspelt_name_comes_with_the_right_one() -> None:
    with pytest.raises(SettingError, match=r"did you mean 'clip\.length'"):
        with_values(Settings(), {"clip.lenght": 10})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"clip.length": 8, "clip.overlap": 8}, ("clip.overlap", "clip.length", "8")),
        (
            {"inference.visible_cosine": 0.8, "inference.anchor_cosine": 0.7},
            ("inference.visible_cosine", "inference.anchor_cosine", "0.8", "0.7"),
        ),
        ({"delta_dino.kernel": 4}, ("delta_dino.kernel", "4", "odd")),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    values: dict[str, object], named: tuple[str, ...]
) -> None:
    with pytest.raises(SettingError) as error:
        with_values(Settings(), values)
    for part in named:
        assert part in str(error.value)


def test_several_values_are_checked_together_not_one_after_the_other() -> None:
    # Either alone contradicts the defaults.
    changed = with_values(Settings(), {"clip.overlap": 100, "clip.length": 200})
    assert (changed.clip.overlap, changed.clip.length) == (100, 200)


def test_a_refused_change_changes_nothing() -> None:
    settings = Settings()
    with pytest.raises(SettingError):
        with_values(settings, {"clip.length": 20, "optimizer.seed": -1})
    assert settings == Settings()
    changed = with_values(settings, {"clip.length": 20})
    assert (settings.clip.length, changed.clip.length) == (48, 20)
    assert changed.optimizer is not None and changed.optimizer == settings.optimizer


def test_settings_are_checked_however_they_are_built() -> None:
    with pytest.raises(SettingError, match=r"ClipSettings\.length is 1"):
        ClipSettings(length=1)
    with pytest.raises(SettingError, match="kernel"):
        Settings(delta_dino=DeltaDinoSettings(kernel=6))
    with pytest.raises(SettingError, match="overlap"):
        dataclasses.replace(ClipSettings(), overlap=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().device = "cpu"  # type: ignore[misc]
    assert issubclass(SettingError, TrackerError)
    assert issubclass(SettingError, ValueError)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_what_they_say(name: str) -> None:
    settings = preset(name)
    for setting_name, value in PRESETS[name].items():
        assert value_of(settings, setting_name) == value
    changed = {
        info.name for info, old in zip(describe(settings), EVERY) if info.value != old.value
    }
    assert changed == set(PRESETS[name]), "a preset repeats a default"


def test_the_paper_preset_is_the_published_one() -> None:
    paper = preset("paper")
    assert (paper.backbone.model, paper.backbone.block) == ("facebook/dinov2-large", 16)
    assert (paper.backbone.stride, paper.backbone.final_norm) == (7, False)
    assert (paper.flow.method, paper.flow.updates) == ("raft_large", 24)
    assert (paper.trajectories.loop_error, paper.trajectories.direct_error) == (1.5, 2.5)
    assert (paper.trajectories.spacing, paper.trajectories.direct_flow) == (1, "all")
    best_buddies = paper.best_buddies
    assert (best_buddies.peak_box, best_buddies.peak_overlap) == (30.0, 0.2)
    assert (best_buddies.peak_candidates, best_buddies.pairs) == (400, 0)
    assert (paper.foreground.flow_share, paper.foreground.best_buddy_share) == (0.5, 0.7)
    delta = paper.delta_dino
    assert (delta.width, delta.kernel, delta.downscale) == (64, 5, 1)
    assert (paper.head.radius, paper.head.channels) == (35.0, 16)
    assert paper.head.initialization == "random"
    loss = paper.loss
    # Cycle: published as 0.5, the mean of two halves of which one is always zero.
    assert (loss.flow, loss.cycle, loss.norm, loss.angle) == (1.0, 0.25, 1e-4, 1e-4)
    assert (loss.dino_best_buddies, loss.refined_best_buddies) == (2.5e-4, 5e-5)
    assert (loss.huber, loss.temperature) == (1 / 32, 0.1)
    assert (loss.cycle_error, loss.cycle_decay, loss.self_supervised_start) == (4.0, 0.8, 0.5)
    optimizer = paper.optimizer
    assert (optimizer.iterations, optimizer.learning_rate) == (10_000, 0.01)
    assert (optimizer.schedule, optimizer.pair_points) == ("published", 256)
    assert optimizer.flow_points == 2 * 512
    assert (paper.inference.anchor_cosine, paper.inference.visible_cosine) == (0.7, 0.6)
    assert paper.inference.occlusion == "anchors"
    assert not paper.hypotheses.enabled and not paper.registration.enabled
    assert loss.flow_contrast == 0
    assert paper.precision == "float32"


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(SettingError, match="'fast'") as error:
        preset("fast")
    for name in PRESETS:
        assert name in str(error.value)


@dataclasses.dataclass(frozen=True)
class _Inner(SettingGroup):
    flag: bool = setting(True, "a flag")
    free: int = setting(3, "no limits")


@dataclasses.dataclass(frozen=True)
class _Outer(SettingGroup):
    name: str = setting("a", "a name", choices=("a", "b"))
    inner: _Inner = dataclasses.field(default_factory=_Inner)


def test_any_tree_is_described_and_changed() -> None:
    infos = describe(_Outer())
    assert [info.name for info in infos] == ["name", "inner.flag", "inner.free"]
    assert [info.allowed for info in infos] == ["a | b", "true | false", "int"]
    changed = with_values(_Outer(), {"inner.flag": "false", "name": "b"})
    assert changed == _Outer(name="b", inner=_Inner(flag=False))
