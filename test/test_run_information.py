"""What a run depended on: nothing of it is made up."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import pytest

from dino_tracker_ros.evaluation.report.run_information import run_information
from dino_tracker_ros.tracking.errors import WeightsError
from dino_tracker_ros.tracking.settings import Settings, with_values

MODEL = hashlib.sha256(b"model").hexdigest()


def test_weights_are_named_with_the_hash_of_their_file(tmp_path: Path) -> None:
    model, flow = tmp_path / "model.safetensors", tmp_path / "flow.pth"
    model.write_bytes(b"model")
    flow.write_bytes(b"flow")
    settings = with_values(
        Settings(),
        {
            "backbone.weights": str(model),
            "flow.method": "raft_small",
            "flow.weights": str(flow),
            "optimizer.seed": 11,
        },
    )
    found = run_information(settings, ["raft_small", "dis"])
    weights = {name: value for name, value in found.items() if name.startswith("weights")}
    assert weights == {
        "weights facebook/dinov2-small": f"model.safetensors, sha256 {MODEL}",
        "weights raft_small": f"flow.pth, sha256 {hashlib.sha256(b'flow').hexdigest()}",
    }
    assert found["seed"] == "11"
    assert found["Python"] == platform.python_version()
    assert found["torch"]
    assert all(isinstance(value, str) and value for value in found.values())


def test_a_folder_with_a_model_is_hashed_too(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"model")
    settings = with_values(Settings(), {"backbone.model": str(tmp_path)})
    found = run_information(settings)
    assert MODEL in found[f"weights {tmp_path}"]


def test_weights_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    settings = with_values(Settings(), {"backbone.weights": str(tmp_path / "none.safetensors")})
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        run_information(settings)
