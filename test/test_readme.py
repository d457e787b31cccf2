"""What the documentation says against what the code does, in both directions.

The tables are compared with the source text, so that this runs without ROS 2 as well.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dino_tracker_ros.evaluation.scores import HEADLINES
from dino_tracker_ros.ros.node_settings import NodeSettings, StartSettings
from dino_tracker_ros.tracking.settings import PRESETS, SettingInfo, describe, preset

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dino_tracker_ros"
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MOST_BYTES = 400_000  # of a picture
NODE_SOURCE = PACKAGE / "ros" / "tracker_node.py"
INPUT_SOURCE = PACKAGE / "ros" / "image_input.py"
LAUNCH_SOURCE = ROOT / "launch" / "tracker.launch.py"
Row = dict[str, str]


# Reading Markdown


def heading_anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def sections(path: Path) -> dict[str, str]:
    """Text below each heading, without its code blocks, by the heading's anchor."""
    found: dict[str, str] = {}
    anchor, in_code = "", False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif in_code:
            continue
        elif heading := re.match(r"#+ (.*)", line):
            anchor = heading_anchor(heading.group(1))
            assert anchor not in found, f"{path.name} has two headings '{anchor}'"
            found[anchor] = ""
        else:
            found[anchor] = found.get(anchor, "") + line + "\n"
    return found


def tables(path: Path, section: str) -> list[list[Row]]:
    """The tables of a section, a row as column name to cell, without backticks."""
    found: list[list[Row]] = []
    head: list[str] = []
    for line in sections(path)[section].splitlines():
        if not line.startswith("|"):
            head = []
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not head:
            head = cells
            found.append([])
        elif not set(line) <= set("|- "):
            assert len(cells) == len(head), f"{path.name}, {section}: {line}"
            found[-1].append({name: plain(cell) for name, cell in zip(head, cells)})
    assert found, f"{path.name} has no table under '{section}'"
    return found


def plain(cell: str) -> str:
    """A cell that is nothing but code, without its backticks."""
    return re.sub(r"^`([^`]*)`$", r"\1", cell)


def by_name(rows: list[Row], column: str) -> dict[str, Row]:
    names = [row[column] for row in rows]
    assert len(names) == len(set(names)), f"listed twice: {names}"
    return {row[column]: row for row in rows}


def code_blocks(path: Path, language: str) -> list[str]:
    blocks: list[str] = []
    opened: str | None = None
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            opened = line[3:] if opened is None else None
            if opened == language:
                blocks.append("")
        elif opened == language:
            blocks[-1] += line + "\n"
    return blocks


def commands() -> list[str]:
    """Every command of the README, in code blocks and within sentences, comments cut off."""
    lines = [line for block in code_blocks(README, "") for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", README.read_text(encoding="utf-8"))
    return [part.split("#")[0].strip() for line in lines for part in line.split("&&")]


def same(shown: dict[str, Any], true: dict[str, Any], what: str) -> None:
    """Both say the same, with a message that names every difference."""
    missing, extra = sorted(set(true) - set(shown)), sorted(set(shown) - set(true))
    assert not missing, f"{what} lacks {missing}"
    assert not extra, f"{what} has {extra}, the code has not"
    wrong = {name: (shown[name], true[name]) for name in true if shown[name] != true[name]}
    assert not wrong, f"{what}: (written, true) {wrong}"


# Reading code


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported_types(path: Path, kind: str) -> dict[str, str]:
    """ROS types imported by name: Image to sensor_msgs/Image."""
    return {
        alias.name: f"{node.module.split('.')[-2]}/{alias.name}"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.endswith(f".{kind}")
        for alias in node.names
    }


def constants(path: Path) -> dict[str, Any]:
    """Module-level names with a literal value."""
    found = {}
    for node in tree(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Constant, ast.Tuple)):
            for target in node.targets:
                names = target.elts if isinstance(target, ast.Tuple) else [target]
                values = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                for name, value in zip(names, values):
                    if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                        found[name.id] = value.value
    return found


def literal(node: ast.expr) -> str:
    assert isinstance(node, ast.Constant)
    assert isinstance(node.value, str)
    return node.value


def calls(path: Path, function: str) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr == function)
            or (isinstance(node.func, ast.Name) and node.func.id == function)
        )
    ]


def node_settings() -> dict[str, SettingInfo]:
    """The node's own parameters."""
    trees = (StartSettings(), NodeSettings())
    return {info.name: info for settings in trees for info in describe(settings)}


def writer() -> ModuleType:
    """docs/write_settings.py as a module."""
    path = ROOT / "docs" / "write_settings.py"
    spec = importlib.util.spec_from_file_location("write_settings", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Topics, services, messages, launch arguments


def true_topics() -> dict[str, Row]:
    types = imported_types(NODE_SOURCE, "msg")
    queues = constants(NODE_SOURCE)
    found: dict[str, Row] = {}
    for function, direction in (
        ("create_subscription", "in"),
        ("create_lifecycle_publisher", "out"),
        ("create_publisher", "out"),
    ):
        for call in calls(NODE_SOURCE, function):
            kind, topic = call.args[0], literal(call.args[1])
            queue = call.args[3 if direction == "in" else 2]
            assert isinstance(kind, ast.Name)
            assert isinstance(queue, ast.Name)
            found[topic] = {
                "type": types[kind.id], "direction": direction, "queue": str(queues[queue.id]),
            }  # fmt: skip
    # The camera's topics have names of their own, and their types depend on parameters.
    names = constants(INPUT_SOURCE)
    camera = {
        names["IMAGE_TOPIC"]: "Image",
        names["IMAGE_TOPIC"] + "/compressed": "CompressedImage",
        names["DEPTH_TOPIC"]: "Image",
        names["INFO_TOPIC"]: "CameraInfo",
    }
    types = imported_types(INPUT_SOURCE, "msg")
    assert set(types) == set(camera.values())
    for topic, kind_name in camera.items():
        found[topic] = {
            "type": types[kind_name], "direction": "in", "queue": "image.qos_depth",
        }  # fmt: skip
    return found


def shown_topics() -> dict[str, Row]:
    (rows,) = tables(README, "topics")
    return {
        name: {key: row[key] for key in ("type", "direction", "queue")}
        for name, row in by_name(rows, "topic").items()
    }


def shown_services() -> dict[str, str]:
    (rows,) = tables(README, "services")
    return {name: row["type"] for name, row in by_name(rows, "service").items()}


def test_the_topics() -> None:
    same(shown_topics(), true_topics(), "README.md, Topics")


def test_the_services() -> None:
    types = imported_types(NODE_SOURCE, "srv")
    found = {}
    for call in calls(NODE_SOURCE, "create_service"):
        kind = call.args[0]
        assert isinstance(kind, ast.Name)
        found[literal(call.args[1])] = types[kind.id]
    same(shown_services(), found, "README.md, Services")


def test_the_messages() -> None:
    section = sections(README)["messages"]
    described = re.findall(r"^\[`(\w+)`\]\(msg/\w+\.msg\):$", section, re.MULTILINE)
    assert sorted(described) == sorted(path.stem for path in (ROOT / "msg").glob("*.msg"))
    for name, rows in zip(described, tables(README, "messages"), strict=True):
        text = (ROOT / "msg" / f"{name}.msg").read_text(encoding="utf-8")
        fields = re.findall(r"^([\w/]+(?:\[\])?) (\w+)$", text, re.MULTILINE)
        assert [row["field"] for row in rows] == [field for _, field in fields], name
        shown = {row["field"]: row["type"] for row in rows}
        same(shown, {field: kind for kind, field in fields}, f"README.md, Messages, {name}")
        for constant, value in re.findall(r"^\w+ ([A-Z]+)=(\d+)$", text, re.MULTILINE):
            assert f"`{constant}` ({value})" in section


def test_the_launch_arguments() -> None:
    found: dict[str, Row] = {}
    for call in calls(LAUNCH_SOURCE, "DeclareLaunchArgument"):
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        default, choices = given["default_value"], given.get("choices")
        allowed = [literal(c) for c in choices.elts] if isinstance(choices, ast.List) else []
        found[literal(call.args[0])] = {
            # The parameter file's default is put together at run time.
            "default": literal(default)
            if isinstance(default, ast.Constant)
            else "config/tracker.yaml",
            "allowed": ", ".join(filter(None, allowed)),
        }
    strings = {n.value for n in ast.walk(tree(LAUNCH_SOURCE)) if isinstance(n, ast.Constant)}
    assert {"config", "tracker.yaml"} <= strings
    assert (ROOT / "config" / "tracker.yaml").is_file()
    (rows,) = tables(README, "launch-arguments")
    shown = {
        name: {"default": row["default"], "allowed": row["allowed"]}
        for name, row in by_name(rows, "argument").items()
    }
    same(shown, found, "README.md, Launch arguments")


@pytest.fixture
def live_node() -> Iterator[Any]:
    """The node in this process, active, with a double for the tracker."""
    rclpy = pytest.importorskip("rclpy", reason="needs ROS 2 (rclpy)")
    pytest.importorskip("dino_tracker_ros.msg", reason="needs this package's messages")
    from tracker_double import TrackerDouble

    from dino_tracker_ros.ros.tracker_node import TrackerNode

    context = rclpy.Context()
    # Nobody else's node of this name may be in sight.
    rclpy.init(context=context, domain_id=random.SystemRandom().randrange(1, 100))
    node = TrackerNode(load=TrackerDouble, context=context)
    node.start()
    yield node
    node.close()
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.mark.ros
def test_a_live_node_has_these_topics_and_services(live_node: Any) -> None:
    def of_node(names_and_types: list[tuple[str, list[str]]]) -> dict[str, str]:
        return {name: types[0].replace("/msg/", "/").replace("/srv/", "/")
                for name, types in names_and_types}  # fmt: skip

    def resolved(name: str) -> str:
        return name.replace("~", "/dino_tracker") if name[0] == "~" else "/" + name.lstrip("/")

    name, space = "dino_tracker", "/"
    give_up = time.monotonic() + 30
    while not (found := of_node(live_node.get_publisher_names_and_types_by_node(name, space))):
        assert time.monotonic() < give_up, "the node does not see itself"
        time.sleep(0.05)
    # What every lifecycle node has.
    common = {"/rosout", "/parameter_events", "/dino_tracker/transition_event", "/clock"}
    for direction, true in (
        ("out", found),
        ("in", of_node(live_node.get_subscriber_names_and_types_by_node(name, space))),
    ):
        shown = {
            resolved(topic): row["type"]
            for topic, row in shown_topics().items()
            # This node is configured for raw images without depth.
            if row["direction"] == direction
            and topic not in ("image_raw/compressed", "depth/image_raw")
        }
        own = {topic: kind for topic, kind in true.items() if topic not in common}
        same(shown, own, f"README.md, Topics, {direction}")
    services = of_node(live_node.get_service_names_and_types_by_node(name, space))
    standard = ("rcl_interfaces/", "lifecycle_msgs/", "type_description_interfaces/")
    own = {service: kind for service, kind in services.items() if not kind.startswith(standard)}
    same({resolved(n): kind for n, kind in shown_services().items()}, own, "README.md, Services")


# Parameters and settings


def test_the_parameters_of_the_node() -> None:
    write = writer()
    found = {
        name: {
            "default": write.value_text(info), "unit": info.unit, "allowed": write.allowed(info),
        }
        for name, info in node_settings().items()
    }  # fmt: skip
    (rows,) = tables(README, "parameters-of-the-node")
    shown = {
        name: {key: row[key] for key in ("default", "unit", "allowed")}
        for name, row in by_name(rows, "parameter").items()
    }
    same(shown, found, "README.md, Parameters of the node")


def test_the_settings_in_the_readme() -> None:
    write = writer()
    values: dict[str, Row] = {}
    for name in PRESETS:
        for info in describe(preset(name)):
            values.setdefault(info.name, {})[name] = write.value_text(info)
    (rows,) = tables(README, "settings-of-the-tracker")
    shown = {
        name: {column: row[column] for column in row if column not in ("setting", "what")}
        for name, row in by_name(rows, "setting").items()
    }
    unknown = set(shown) - set(values)
    assert not unknown, f"there are no settings {sorted(unknown)}"
    same(shown, {name: values[name] for name in shown}, "README.md, Settings of the tracker")


def test_the_page_of_all_settings_is_fresh() -> None:
    write = writer()
    assert write.TARGET.read_text(encoding="utf-8") == write.text(), (
        "docs/SETTINGS.md is out of date: run python docs/write_settings.py"
    )


def test_the_page_of_all_settings_has_every_setting_once() -> None:
    text = (ROOT / "docs" / "SETTINGS.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE)
    assert sorted(names) == sorted(info.name for info in describe(preset("robot")))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_setting_that_is_mentioned_exists(path: Path) -> None:
    known = {info.name for info in describe(preset("robot"))} | set(node_settings())
    groups = {name.split(".")[0] for name in known if "." in name}
    keys = {row["key"] for row in tables(ROOT / "docs" / "NODE.md", "diagnostics")[0]}
    mentioned = re.findall(r"`(\w+\.\w+)`", path.read_text(encoding="utf-8"))
    about_settings = {name for name in mentioned if name.split(".")[0] in groups}
    assert not about_settings - known - keys


# Weights


def test_the_weights() -> None:
    weights = pytest.importorskip("dino_tracker_ros.tracking.weights", reason="needs filelock")
    used: dict[str, list[str]] = {}
    for name in PRESETS:
        settings = preset(name)
        for weight in (settings.backbone.model, settings.flow.method):
            used.setdefault(weight, []).append(name)
    found = {
        weight.name: {
            "used by": ", ".join(used.get(weight.name, [])),
            "also inside": ", ".join(
                source.requirement for source in weight.sources if hasattr(source, "requirement")
            ),
        }
        for weight in weights.KNOWN_WEIGHTS
    }
    (rows,) = tables(README, "weights")
    shown = {
        name: {"used by": row["used by"], "also inside": row["also inside"]}
        for name, row in by_name(rows, "weights").items()
    }
    same(shown, found, "README.md, Weights")
    text = sections(README)["weights"]
    assert f"`${weights.CACHE_VARIABLE}`" in text
    for weight in set(used) - set(found) - {"dis"}:
        assert f"`{weight}`" in text


# docs/NODE.md


def test_the_diagnostics() -> None:
    diagnostics = pytest.importorskip("dino_tracker_ros.ros.diagnostics")
    worker = pytest.importorskip("dino_tracker_ros.ros.worker")
    busy = worker.WorkerStatus(
        stage="fitting",
        fit=worker.FitStatus(losses={"NAME": 1.0}),
        stage_seconds={"STAGE": 1.0},
    )
    health = diagnostics.health_of(
        "active", diagnostics.NO_INPUT, diagnostics.NO_COUNTS, busy, diagnostics.ErrorStatus()
    )
    keys = [row["key"] for row in tables(ROOT / "docs" / "NODE.md", "diagnostics")[0]]
    same(dict.fromkeys(keys, ""), dict.fromkeys(health.values, ""), "docs/NODE.md, Diagnostics")
    assert len(keys) == len(set(keys))


def test_the_reasons_for_drops() -> None:
    buffer = pytest.importorskip("dino_tracker_ros.ros.clip_buffer")
    (rows,) = tables(ROOT / "docs" / "NODE.md", "what-is-dropped")
    shown = [row["key"] for row in rows]
    assert sorted(shown) == sorted(f"dropped.{reason.value}" for reason in buffer.Drop)


# Links, files, commands


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), f"{path.name} links to '{target}', which is not there"
        if anchor:
            assert anchor in sections(page), f"{path.name} links to '{target}': no such heading"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    folders = "config|docs|launch|msg|scripts|test|dino_tracker_ros"
    for name in re.findall(rf"`((?:{folders})/[\w/.-]*)`", text):
        # Also a ROS 2 name such as dino_tracker_ros/TrackArray.
        is_message = (ROOT / "msg" / f"{Path(name).name}.msg").is_file()
        assert (ROOT / name).exists() or is_message, f"{path.name} names '{name}'"


def test_every_tracking_file_has_its_line_in_the_method() -> None:
    text = (ROOT / "docs" / "METHOD.md").read_text(encoding="utf-8")
    helpers = {
        "__init__", "constants", "device", "dinov2_onnx", "errors", "identities", "lattice",
        "memory", "pixels", "precision", "queries", "raft_checkpoint", "tracks", "weight_sources",
    }  # fmt: skip
    modules = {path.stem for path in (PACKAGE / "tracking").glob("*.py")} - helpers
    missing = {name for name in modules if f"[{name}.py](" not in text}
    assert not missing, f"docs/METHOD.md does not tell what is in {sorted(missing)}"


@pytest.mark.parametrize("path", sorted((ROOT / "docs").rglob("*.png")), ids=lambda p: p.name)
def test_a_picture_is_a_small_png(path: Path) -> None:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) < MOST_BYTES, f"{path.name} has {len(data)} bytes"


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    used = [command.split() for command in commands() if command.startswith("make ")]
    assert used
    for _, target, *variables in used:
        assert target in targets, f"there is no 'make {target}'"
        for name in (variable.partition("=")[0] for variable in variables):
            assert f"$({name})" in makefile, f"make {target} knows no {name}"


def test_every_command_line_is_understood() -> None:
    cli = pytest.importorskip("dino_tracker_ros.cli", reason="needs numpy and tqdm")
    used = [command.split() for command in commands() if command.startswith("dino-tracker ")]
    names = {"track", "evaluate", "bag", "weights", "settings"}
    assert {arguments[1] for arguments in used} == names
    for _, *arguments in used:
        if "--help" not in arguments:
            cli._parser().parse_args(arguments)  # exits where it does not understand


def test_every_launch_command_names_arguments_that_exist() -> None:
    known = {row["argument"] for row in tables(README, "launch-arguments")[0]}
    used = [command for command in commands() if ":=" in command]
    assert any(command.startswith("ros2 launch dino_tracker_ros") for command in used)
    for command in used:
        assert set(re.findall(r"(\w+):=", command)) <= known, command


def test_what_the_demo_is_said_to_print_is_what_it_prints() -> None:
    demo = (PACKAGE / "evaluation" / "demo.py").read_text(encoding="utf-8")
    (output,) = (block for block in code_blocks(README, "") if "frames dropped" in block)
    stages = {"decode", "features", "flow", "trajectories", "best buddies", "fit", "track"}
    scores = {metric.title for metric in HEADLINES}
    for line in output.strip().splitlines():
        name = re.split(r"\s{2,}", line)[0]
        known = f'"{name}"' in demo or name.removeprefix("seconds: ") in stages | scores
        assert known or name.startswith("look at") or not name, f"the demo prints no '{name}'"


def test_the_subscriber_reads_fields_that_exist() -> None:
    (example,) = (code for code in code_blocks(README, "python") if "TrackArray" in code)
    known = {"clip": "TrackArray", "track": "Track", "Track": "Track"}
    read = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(example))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in known
    ]
    assert len(read) > 3
    for name, field in read:
        text = (ROOT / "msg" / f"{known[name]}.msg").read_text(encoding="utf-8")
        assert re.search(rf"^[^#\s]+ {field}(=\d+)?$", text, re.MULTILINE), f"{name}.{field}"


@pytest.mark.slow
@pytest.mark.weights
def test_the_python_example_runs(
    weights_cache: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"clip.longest_side": 112, "optimizer.iterations": 2, "device": "cpu"}
    monkeypatch.setitem(PRESETS, "cpu", {**PRESETS["cpu"], **small})
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 255, (480, 640, 3), np.uint8) for _ in range(3)]
    (example,) = (code for code in code_blocks(README, "python") if "DinoTracker" in code)
    exec(compile(example, "README.md", "exec"), {"images": images})
    assert "320" in capsys.readouterr().out
