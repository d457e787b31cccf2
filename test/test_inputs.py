"""What is evaluated, of the files and folders that a user names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.inputs import BagOptions, Input, find_inputs, load_input
from dino_tracker_ros.tracking.clip import Frame


def found(*paths: Path) -> list[Input]:
    inputs, failures = find_inputs(paths, "first", BagOptions())
    assert not failures
    return inputs


def write_picture(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(file), np.zeros((12, 16, 3), np.uint8))


def test_badja_is_taken_whole_or_by_one_file(tmp_path: Path) -> None:
    badja = tmp_path / "badja"
    (badja / "joint_annotations").mkdir(parents=True)
    for name in ("cat", "dog"):
        labels = [
            {
                "image_path": f"{name}/{index}.png", "segmentation_path": f"none/{index}.png",
                "joints": [[5, 6]], "visibility": [True],
            }
            for index in (0, 1)
        ]  # fmt: skip
        for index in range(2):
            write_picture(badja / name / f"{index}.png")
        (badja / "joint_annotations" / f"{name}.json").write_text(json.dumps(labels))
    assert [each.name for each in found(badja)] == ["cat", "dog"]
    (dog,) = found(badja / "joint_annotations" / "dog.json")
    clip = load_input(dog, "first")
    assert (clip.name, clip.truth.queries.tolist()) == ("dog", [[0, 6, 5]])


def test_known_tracks_beside_a_bag_are_no_input_of_their_own(tmp_path: Path) -> None:
    pytest.importorskip("rosbags", reason="bags are written with it")
    images = np.zeros((2, 12, 16, 3), np.uint8)
    with new_bag(tmp_path / "run1") as bag:
        for index, image in enumerate(images):
            bag.write_image("/image_raw", Frame(image, 10**18 + index), "camera")
    clip = {"video": images, "points": np.full((1, 2, 2), 0.5), "occluded": np.zeros((1, 2), bool)}
    (tmp_path / "run1.pkl").write_bytes(pickle.dumps({"clip": clip}))
    (run1,) = found(tmp_path)
    assert run1.name == "run1" and run1.bag is not None
    assert len(load_input(run1, "first").truth.queries) == 1
