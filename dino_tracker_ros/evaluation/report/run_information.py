"""What a run depended on: versions, weights, hardware."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import torch

from dino_tracker_ros.tracking.raft import RAFT_METHODS
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.weights import WeightsCache, sha256_of

_PACKAGE = "dino_tracker_ros"
_LIBRARIES = ("torch", "torchvision", "opencv-python-headless", "opencv-python", "numpy")


def run_information(settings: Settings, flows: Iterable[str] = ()) -> dict[str, str]:
    """Names to values, in the order in which a report shows them; fetches weights it lacks.

    Args:
        settings: of the tracker.
        flows: flow methods that ran beside the settings' own, as baselines.

    Raises:
        WeightsError: weights of the settings are nowhere to be had.
    """
    return {
        _PACKAGE: f"{_version(_PACKAGE) or 'not installed'}, sha256 of its code {_source_hash()}",
        "Python": platform.python_version(),
        **{name: version for name in _LIBRARIES if (version := _version(name))},
        "ROS 2": os.environ.get("ROS_DISTRO", "none"),
        **_weights(settings, flows),
        "seed": str(settings.optimizer.seed),
        "system": platform.platform(),
        "CPU": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} for PyTorch",
        "GPU": _graphics(),
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _source_hash() -> str:
    """Tells two states of the code apart that call themselves the same version."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(str(file.relative_to(package)).encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _weights(settings: Settings, flows: Iterable[str]) -> dict[str, str]:
    cache = WeightsCache()
    given = {settings.flow.method: settings.flow.weights}
    wanted = {settings.backbone.model: settings.backbone.weights}
    for flow in (settings.flow.method, *flows):
        if flow in RAFT_METHODS:
            wanted[flow] = given.get(flow, "")
    hashes = {}
    for name, file in wanted.items():
        # A backbone may be a folder with its model.
        folder = Path(name).expanduser()
        if not file and folder.is_dir():
            file = str(folder / "model.safetensors")
        path = cache.path(name, file)
        hashes[f"weights {name}"] = f"{path.name}, sha256 {sha256_of(path)}"
    return hashes


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _graphics() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch sees"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names)
