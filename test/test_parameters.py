"""Every setting is a parameter with its description and range; bad values are refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
yaml = pytest.importorskip("yaml", reason="needs PyYAML, which every ROS 2 has")

from rclpy.parameter import Parameter  # noqa: E402

from dino_tracker_ros.ros.node_settings import NodeSettings, StartSettings  # noqa: E402
from dino_tracker_ros.ros.parameters import NodeParameters, descriptor_of  # noqa: E402
from dino_tracker_ros.tracking.errors import SettingError  # noqa: E402
from dino_tracker_ros.tracking.settings import (  # noqa: E402
    SettingInfo,
    Settings,
    describe,
    preset,
)

pytestmark = pytest.mark.ros
SETTABLE = [*describe(Settings()), *describe(NodeSettings())]
ALL = [*describe(StartSettings()), *SETTABLE]
BOUNDED = [info for info in SETTABLE if info.minimum is not None or info.maximum is not None]
Make = Callable[..., tuple[Any, NodeParameters]]


def name_of(info: SettingInfo) -> str:
    return info.name


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=91)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def make(context: Any) -> Iterator[Make]:
    nodes = []

    def make_node(**overrides: Any) -> tuple[Any, NodeParameters]:
        given = [Parameter(name.replace("__", "."), value=v) for name, v in overrides.items()]
        node = rclpy.create_node(
            "parameters_test", context=context, parameter_overrides=given,
            enable_rosout=False, start_parameter_services=False,
        )  # fmt: skip
        nodes.append(node)
        return node, NodeParameters(node, lambda: "cpu")

    yield make_node
    for node in nodes:
        node.destroy_node()


@pytest.fixture(scope="module")
def shared(context: Any) -> Iterator[tuple[Any, NodeParameters]]:
    node = rclpy.create_node("shared_parameters_test", context=context, enable_rosout=False)
    yield node, NodeParameters(node, lambda: "cpu")
    node.destroy_node()


def put(node: Any, **values: Any) -> Any:
    given = [Parameter(name.replace("__", "."), value=value) for name, value in values.items()]
    return node.set_parameters_atomically(given)


def test_no_two_settings_share_a_name() -> None:
    names = [info.name for info in ALL]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("info", ALL, ids=name_of)
def test_every_setting_is_declared_with_its_description(
    shared: tuple[Any, NodeParameters], info: SettingInfo
) -> None:
    node, _ = shared
    descriptor = node.describe_parameter(info.name)
    assert descriptor.description.startswith(info.description)
    assert info.unit in descriptor.description
    for choice in info.choices:
        assert choice in descriptor.additional_constraints
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    assert len(ranges) == (info.type in (int, float))
    for bounds in ranges:
        assert info.minimum is None or bounds.from_value == pytest.approx(info.minimum)
        assert info.maximum is None or bounds.to_value == pytest.approx(info.maximum)


def beyond(info: SettingInfo) -> list[Any]:
    values = []
    if info.minimum is not None:
        values.append(info.type(info.minimum - 1))
    if info.maximum is not None:
        values.append(info.type(info.maximum + max(1, abs(info.maximum) * 1e-3)))
    return values + ([math.nan] if info.type is float else [])


@pytest.mark.parametrize("info", BOUNDED, ids=name_of)
def test_values_out_of_range_are_refused(
    shared: tuple[Any, NodeParameters], info: SettingInfo
) -> None:
    node, parameters = shared
    before = node.get_parameter(info.name).value
    for value in beyond(info):
        result = put(node, **{info.name: value})
        assert not result.successful
        assert info.name in result.reason
    assert node.get_parameter(info.name).value == before
    parameters.tracker()
    parameters.node()


@pytest.mark.parametrize("info", BOUNDED, ids=name_of)
def test_the_ends_of_a_range_are_allowed_at_start(make: Make, info: SettingInfo) -> None:
    for end in (info.minimum, info.maximum):
        if end is not None:
            _, parameters = make(**{info.name: info.type(end)})
            assert parameters.problems == ()


@pytest.mark.parametrize("info", [i for i in SETTABLE if i.choices], ids=name_of)
def test_choices(shared: tuple[Any, NodeParameters], info: SettingInfo) -> None:
    node, _ = shared
    result = put(node, **{info.name: "nonsense"})
    assert not result.successful
    assert result.reason == f"{info.name} is 'nonsense': choose one of {', '.join(info.choices)}"
    before = node.get_parameter(info.name).value
    for choice in info.choices:
        assert put(node, **{info.name: choice}).successful
    put(node, **{info.name: before})


@pytest.mark.parametrize("info", SETTABLE, ids=name_of)
def test_values_of_another_type_are_refused(
    shared: tuple[Any, NodeParameters], info: SettingInfo
) -> None:
    node, _ = shared
    wrong = 3 if info.type is str else "text"
    assert not put(node, **{info.name: wrong}).successful


def test_presets_are_defaults_that_parameters_override(make: Make) -> None:
    _, parameters = make(preset="paper", optimizer__frames=6)
    expected = preset("paper")
    assert parameters.preset == "paper"
    assert parameters.tracker().backbone == expected.backbone
    assert parameters.tracker().optimizer.frames == 6
    assert make()[1].tracker() == preset("cpu")  # what "auto" was said to be


def test_a_whole_number_is_taken_for_a_float(make: Make) -> None:
    _, parameters = make(optimizer__time_budget=5)
    assert parameters.tracker().optimizer.time_budget == 5.0
    assert parameters.problems == ()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("clip.length", 0, "clip.length"),
        ("clip.length", "many", "clip.length"),
        ("optimizer.learning_rate", -1.0, "learning_rate"),
        ("flow.method", "lucas_kanade", "choose one of raft_large, raft_small, dis"),
        ("image.transport", "theora", "choose one of raw, compressed"),
        ("preset", "fast", "choose one of auto, paper, robot, cpu"),
    ],
)
def test_a_bad_value_at_start_is_told_and_not_used(
    make: Make, name: str, value: Any, said: str
) -> None:
    _, parameters = make(**{name: value})
    (problem,) = parameters.problems
    assert problem.startswith(f"parameter {name}: ")
    assert said in problem
    with pytest.raises(SettingError, match=said):
        parameters.tracker()


def test_bad_values_at_start_can_be_mended_one_by_one(make: Make) -> None:
    node, parameters = make(clip__length=0, flow__method="lucas_kanade")
    assert len(parameters.problems) == 2
    assert put(node, clip__length=20).successful
    assert len(parameters.problems) == 1
    assert put(node, flow__method="dis").successful
    assert parameters.tracker().clip.length == 20


def test_values_that_contradict_each_other_are_refused_together(make: Make) -> None:
    node, parameters = make(clip__length=100, clip__overlap=60)  # either alone would not do
    assert parameters.tracker().clip.overlap == 60
    result = put(node, clip__length=50)
    assert not result.successful
    assert "make the overlap smaller than the clip" in result.reason
    assert put(node, clip__length=50, clip__overlap=20).successful


def test_contradictions_at_start_are_raised_when_the_settings_are_read(make: Make) -> None:
    _, parameters = make(clip__length=10, clip__overlap=10)
    with pytest.raises(SettingError, match=r"clip\.overlap is 10 frames"):
        parameters.tracker()


def test_nothing_changes_while_in_use_and_the_reason_is_said(make: Make) -> None:
    node, parameters = make()
    parameters.lock(True)
    result = put(node, clip__length=20)
    assert not result.successful
    assert "clip.length cannot change while the node is configured" in result.reason
    parameters.lock(False)
    assert put(node, clip__length=20).successful


def test_misspelt_parameters_are_told_and_foreign_ones_are_not(make: Make) -> None:
    _, parameters = make(clip__lenght=20, controller_frequency=5.0, clip__length=20)
    assert parameters.misspelt() == [
        "there is no parameter 'clip.lenght': did you mean 'clip.length'?"
    ]


def test_start_parameters_are_read_only(make: Make) -> None:
    node, _ = make()
    assert not put(node, preset="paper").successful
    assert not put(node, autostart=False).successful


def test_foreign_parameters_are_left_alone(make: Make) -> None:
    node, parameters = make()
    parameters.lock(True)
    node.declare_parameter("somebody.elses", 1)
    assert put(node, somebody__elses=2).successful


def test_the_config_file_names_real_parameters_with_their_defaults() -> None:
    path = Path(__file__).parent.parent / "config" / "tracker.yaml"
    text = path.read_text()
    known = {info.name: info for info in ALL}
    own = {info.name for tree in (StartSettings(), NodeSettings()) for info in describe(tree)}
    active = flat(yaml.safe_load(text)["/**"]["ros__parameters"])
    assert active == {name: known[name].value for name in active}
    assert active.keys() == own | {"device"}  # the tracker's own are the presets' to choose
    everything = re.sub(r"^( +)# (\w+:)", r"\1\2", text, flags=re.MULTILINE)
    assert flat(yaml.safe_load(everything)["/**"]["ros__parameters"]).keys() < known.keys()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        branch = (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
        values |= branch
    return values


def test_descriptors_of_numbers_without_bounds() -> None:
    info = SettingInfo("x", int, 1, "a number", "", None, None, ())
    (bounds,) = descriptor_of(info).integer_range
    assert bounds.from_value < -(10**18) < 10**18 < bounds.to_value
