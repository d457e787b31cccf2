"""What holds the package together: messages, manifests, floors, installation.

Needs neither PyTorch nor weights, so it runs on every ROS 2 distribution it is built for.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
NAME = "dino_tracker_ros"
PACKAGE = ROOT / NAME
EVALUATION = f"{NAME}.evaluation"
MODULES = sorted(PACKAGE.rglob("*.py"))
MESSAGES = sorted((ROOT / "msg").glob("*.msg"))

TENSORS = {"torch", "torchvision", "transformers", "safetensors"}
ROS_TREE = ElementTree.parse(ROOT / "package.xml").getroot()
ROS_DEPENDENCIES = {
    element.text
    for element in ROS_TREE
    if element.tag.endswith("depend") and element.text and not element.text.startswith("python3-")
}
# pip's name of each third-party package, by the name it is imported under.
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "imageio_ffmpeg": "imageio-ffmpeg"}
# Imported only where the user asks for them; the code says how to install them.
OPTIONAL = {"rosbags", "skimage"}

# What each part may import of our own.
FLOORS = {
    "tracking": {"tracking"},
    "visualization": {"tracking", "visualization"},
    "ros": {"tracking", "visualization", "ros", "msg"},
    "evaluation": {"tracking", "visualization", "ros", "msg", "evaluation"},
    "setting_options": {"tracking"},
    "evaluate_command": {"tracking", "visualization", "evaluation", "setting_options"},
    "bag_command": {"tracking", "visualization", "evaluation", "setting_options"},
    "cli": {
        "tracking", "visualization", "evaluation", "setting_options", "evaluate_command",
        "bag_command",
    },
}

TRACK = {
    "id": "uint32",
    "query_index": "uint32",
    "x": "sequence<float>",
    "y": "sequence<float>",
    "occluded": "sequence<uint8>",
    "confidence": "sequence<float>",
    "depth": "sequence<float>",
}
TRACK_ARRAY = {
    "header": "std_msgs/Header",
    "stamps": "sequence<builtin_interfaces/Time>",
    "width": "uint32",
    "height": "uint32",
    "clip_id": "uint64",
    "tracks": "sequence<dino_tracker_ros/Track>",
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module that path imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            for alias in node.names:
                # `from package import module` names a module too.
                whole = f"{node.module}.{alias.name}"
                is_module = (ROOT / whole.replace(".", "/")).with_suffix(".py").exists()
                yield whole if is_module else str(node.module)


def part_of(module: str) -> str:
    """tracking, ros ... or the module's own name where it lies beside them."""
    return module.split(".")[1]


def place_of(module: str) -> str:
    """The folder of evaluation/ that holds a module, or else the module itself."""
    return f"{EVALUATION}.{module.split('.')[2]}" if module.startswith(EVALUATION) else module


def third_party(path: Path) -> set[str]:
    top = {module.split(".")[0] for module in imports(path)}
    return top - set(sys.stdlib_module_names) - {NAME}


# Floors


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_a_module_imports_only_from_its_own_floor_and_below(path: Path) -> None:
    module = module_name(path)
    if module == NAME:
        return
    part = part_of(module)
    own = {name for name in imports(path) if name.startswith(f"{NAME}.")}
    above = {name for name in own if part_of(name) not in FLOORS[part]}
    assert not above, f"{module} imports from above: {sorted(above)}"
    if part not in {"ros", "evaluation"}:
        assert not third_party(path) & ROS_DEPENDENCIES, f"{module} knows ROS"
    if part == "ros":
        assert not third_party(path) & TENSORS, f"{module} knows tensors"


def test_no_module_imports_itself_through_others() -> None:
    names = {module_name(path) for path in MODULES}
    graph = {module_name(path): {*imports(path)} & names - {module_name(path)} for path in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_the_folders_of_the_evaluation_stand_on_each_other_in_one_order() -> None:
    """Whatever they import, also by way of the modules beside them."""
    folders = [f"{EVALUATION}.{name}" for name in ("bags", "truths", "report", "live")]
    graph = {upper: {lower} for lower, upper in pairwise(folders)}
    for path in (PACKAGE / "evaluation").glob("**/[!_]*.py"):
        place = place_of(module_name(path))
        imported = {place_of(name) for name in imports(path) if name.startswith(f"{EVALUATION}.")}
        graph.setdefault(place, set()).update(imported - {place})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_nothing_of_ours_gets_in_the_way_of_the_generated_messages() -> None:
    assert (PACKAGE / "__init__.py").read_bytes() == b""
    taken = {"msg", "srv", "action"}
    assert not [path for path in PACKAGE.iterdir() if path.stem in taken]


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in MODULES}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


# Manifests


def test_package_xml_names_every_ros_package_that_is_imported() -> None:
    from_pip = set(requirements())
    files = [*(PACKAGE / "ros").glob("*.py"), *(ROOT / "launch").glob("*.py")]
    used = {name for path in files for name in third_party(path)}
    ours = {name for name in used if DISTRIBUTIONS.get(name, name) not in from_pip}
    assert "rclpy" in ours
    assert ours - {"cv_bridge"} <= ROS_DEPENDENCIES


def test_package_xml_does_not_force_pytorch_on_a_robot() -> None:
    text = "".join(element.text or "" for element in ROS_TREE if element.tag.endswith("depend"))
    assert "torch" not in text


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [re.split(r"[<>=~\[ ]", line)[0] for line in lines if line and line[0] != "#"]


@pytest.mark.parametrize("part", ["tracking", "visualization"])
def test_requirements_name_every_package_that_is_imported(part: str) -> None:
    used = {name for path in (PACKAGE / part).glob("*.py") for name in third_party(path)}
    assert {DISTRIBUTIONS.get(name, name) for name in used - OPTIONAL} <= set(requirements())


def test_requirements_pin_nothing_hard() -> None:
    assert "==" not in (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_the_version_is_the_same_everywhere() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    in_pyproject = re.search(r'^version = "(.+)"$', pyproject, re.MULTILINE)
    assert in_pyproject
    assert ROS_TREE.findtext("version") == in_pyproject.group(1)


# Messages


def test_the_build_names_every_message() -> None:
    listed = re.findall(r"^\s*(msg/\w+\.msg)$", (ROOT / "CMakeLists.txt").read_text(), re.MULTILINE)
    assert listed == [f"msg/{path.name}" for path in MESSAGES]


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_field_of_a_message_has_its_own_comment(path: Path) -> None:
    before = ""
    fields = 0
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            fields += 1
            assert before.startswith("# "), f"{path.name}: no comment above `{line}`"
        before = line
    assert fields > 0


@pytest.mark.ros
@pytest.mark.parametrize(("name", "fields"), [("Track", TRACK), ("TrackArray", TRACK_ARRAY)])
def test_a_message_has_the_documented_fields(name: str, fields: dict[str, str]) -> None:
    messages = pytest.importorskip("dino_tracker_ros.msg", reason="messages are not built")
    assert getattr(messages, name).get_fields_and_field_types() == fields


@pytest.mark.ros
def test_a_message_survives_the_wire() -> None:
    messages = pytest.importorskip("dino_tracker_ros.msg", reason="messages are not built")
    serialization = pytest.importorskip("rclpy.serialization", reason="needs ROS 2")
    track = messages.Track(id=7, query_index=1, x=[0.5, 1.5], y=[2.0, float("nan")])
    track.occluded = [messages.Track.VISIBLE, messages.Track.OCCLUDED]
    sent = messages.TrackArray(width=640, height=480, clip_id=2**40, tracks=[track])
    sent.header.frame_id = "camera"
    received = serialization.deserialize_message(
        serialization.serialize_message(sent), messages.TrackArray
    )
    assert received.header.frame_id == "camera"
    assert (received.width, received.height, received.clip_id) == (640, 480, 2**40)
    (got,) = received.tracks
    assert (got.id, got.query_index, list(got.x), list(got.occluded)) == (7, 1, [0.5, 1.5], [0, 1])
    assert got.y[0] == 2.0
    assert got.y[1] != got.y[1]


# Installation


@pytest.mark.ros
def test_colcon_installs_every_file_the_node_needs() -> None:
    index = pytest.importorskip("ament_index_python", reason="needs ROS 2")
    try:
        prefix = Path(index.get_package_prefix(NAME))
    except index.PackageNotFoundError:
        pytest.skip("the package is not built, or its workspace is not sourced")
    installed = next(prefix.glob(f"lib/python3*/site-packages/{NAME}"), None) or next(
        prefix.glob(f"local/lib/python3*/dist-packages/{NAME}")
    )
    for path in MODULES:
        if path.name != "__init__.py":
            assert (installed / path.relative_to(PACKAGE)).is_file(), f"not installed: {path}"
    for folder in ("launch", "config"):
        for path in (ROOT / folder).glob("*.*"):
            assert (prefix / "share" / NAME / folder / path.name).is_file()
    assert os.access(prefix / "lib" / NAME / "tracker_node", os.X_OK)


@pytest.fixture(scope="module")
def pip_installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the package, without what it depends on."""
    pytest.importorskip(
        "setuptools", minversion="70.1", reason="pip would have to download it to build with"
    )
    source = tmp_path_factory.mktemp("source")
    target = tmp_path_factory.mktemp("target")
    shutil.copytree(PACKAGE, source / NAME, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements.txt", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-index", "--no-build-isolation", "--target", target, source),
        ],
        check=True,
        timeout=300,
    )
    return target


def test_pip_installs_every_module(pip_installed: Path) -> None:
    package = pip_installed / NAME
    expected = {path.relative_to(PACKAGE) for path in MODULES}
    assert {path.relative_to(package) for path in package.rglob("*.py")} == expected


def test_the_command_that_pip_installs_runs_outside_the_repository(
    pip_installed: Path, tmp_path: Path
) -> None:
    for needed in ("numpy", "tqdm"):
        pytest.importorskip(needed, reason="the command needs requirements.txt installed")
    # -S: a development environment's .pth files would bring in the source tree.
    path = os.pathsep.join([str(pip_installed), sysconfig.get_path("purelib")])
    result = subprocess.run(
        [sys.executable, "-S", pip_installed / "bin" / "dino-tracker", "--help"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    for command in ("track", "evaluate", "weights"):
        assert re.search(rf"^\s+{command}\s", result.stdout, re.MULTILINE), result.stdout
