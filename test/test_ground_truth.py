from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dino_tracker_ros.evaluation.ground_truth import GroundTruthError, load_clip
from dino_tracker_ros.visualization.video import VideoError

N, T, WIDTH, HEIGHT = 3, 4, 40, 30


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    occluded = np.zeros((N, T), bool)
    occluded[1, 2] = True
    return {
        "queries": np.array([[0, 5, 7], [1, 8, 9], [2, 29, 39]], np.float32),  # (t, y, x)
        "points": random.uniform(0, 30, (N, T, 2)).astype(np.float32),
        "occluded": occluded,
        "evaluate": np.ones((N, T), bool),
    }


def write_folder(folder: Path, values: dict[str, np.ndarray], frames: int = T) -> Path:
    (folder / "frames").mkdir(parents=True)
    for index in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), (10 * index, 0, 200), np.uint8)  # blue on file
        cv2.imwrite(str(folder / "frames" / f"{index:05d}.png"), image)
    np.savez(folder / "gt.npz", **values)
    return folder


def test_clip_is_read_in_our_conventions(tmp_path):
    clip = load_clip(write_folder(tmp_path / "walk", arrays()))
    assert clip.name == "walk"
    assert (clip.truth.width, clip.truth.height) == (WIDTH, HEIGHT)
    assert clip.truth.queries.tolist() == [[0, 7, 5], [1, 9, 8], [2, 39, 29]]
    np.testing.assert_array_equal(clip.truth.points, arrays()["points"])
    assert len(clip.frames) == T
    assert clip.frames[2].image[0, 0].tolist() == [200, 0, 20]  # RGB
    assert clip.truth.mask_areas is None


def test_occlusion_is_known_only_where_a_scored_point_is_marked(tmp_path):
    values = arrays()
    assert load_clip(write_folder(tmp_path / "a", values)).truth.has_occlusion
    # As hand-labelled clips have it: what has no label is called occluded and is not scored.
    values["evaluate"] = ~values["occluded"]
    values["points"][values["occluded"]] = np.nan
    assert not load_clip(write_folder(tmp_path / "b", values)).truth.has_occlusion
    values["has_occlusion"] = np.array(True)
    assert load_clip(write_folder(tmp_path / "c", values)).truth.has_occlusion


def test_mask_areas_are_counted(tmp_path):
    folder = write_folder(tmp_path / "a", arrays())
    (folder / "masks").mkdir()
    for index in range(T):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[: index + 1, :5] = 255
        cv2.imwrite(str(folder / "masks" / f"{index:05d}.png"), mask)
    areas = load_clip(folder).truth.mask_areas
    assert areas is not None and areas.tolist() == [5, 10, 15, 20]
    (folder / "masks" / "00003.png").unlink()
    with pytest.raises(GroundTruthError, match="3 masks for 4 frames"):
        load_clip(folder)


@pytest.mark.parametrize("name", ["queries", "points", "occluded", "evaluate"])
def test_missing_array_is_named(tmp_path, name):
    values = arrays()
    del values[name]
    with pytest.raises(GroundTruthError, match=f"has no {name}"):
        load_clip(write_folder(tmp_path / "a", values))


@pytest.mark.parametrize("name", ["points", "occluded", "evaluate"])
def test_wrong_shape_is_named(tmp_path, name):
    values = arrays()
    values[name] = values[name][:, :-1]
    with pytest.raises(GroundTruthError, match=f"^{name} in .*3 queries over 4 frames"):
        load_clip(write_folder(tmp_path / "a", values))


def test_scored_point_without_position_is_refused(tmp_path):
    values = arrays()
    values["points"][0, 0] = np.nan
    with pytest.raises(GroundTruthError, match="NaN"):
        load_clip(write_folder(tmp_path / "a", values))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(GroundTruthError, match=r"no gt\.npz"):
        load_clip(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "a", arrays())
    (folder / "gt.npz").write_bytes(b"PK not a zip")
    with pytest.raises(GroundTruthError, match="cannot be read"):
        load_clip(folder)
    folder = write_folder(tmp_path / "b", arrays(), frames=0)
    with pytest.raises(VideoError, match="no picture"):
        load_clip(folder)


def test_pickled_arrays_are_not_loaded(tmp_path):
    values = arrays()
    values["queries"] = np.array([object()], dtype=object)
    with pytest.raises(GroundTruthError, match="cannot be read"):
        load_clip(write_folder(tmp_path / "a", values))
