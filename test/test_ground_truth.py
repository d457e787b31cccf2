from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_files import write_track_bag

from dino_tracker_ros.evaluation.bags.reader import BagError
from dino_tracker_ros.evaluation.bags.tracks import write_tracks
from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.npz_file import NpzError
from dino_tracker_ros.evaluation.tracks_file import save_tracks
from dino_tracker_ros.evaluation.truths.clip_folder import load_clip_folder
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError
from dino_tracker_ros.evaluation.truths.loading import load_clips, load_truth
from dino_tracker_ros.evaluation.truths.recorded_tracks import TRUTH_TOPIC
from dino_tracker_ros.tracking.settings import Settings
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.visualization.video import VideoError

N, T, WIDTH, HEIGHT = 3, 4, 40, 30
STAMPS = np.array([1, 4, 9, 16], np.int64) * 10**9


def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    occluded = np.zeros((N, T), bool)
    occluded[1, 2] = True
    return {
        "queries": np.array([[0, 5, 7], [1, 8, 9], [2, 29, 39]], np.float32),  # (t, y, x)
        "points": random.uniform(0, 29, (N, T, 2)).astype(np.float32),
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
    clip = load_clip_folder(write_folder(tmp_path / "walk", arrays()))
    assert clip.name == "walk"
    assert (clip.truth.width, clip.truth.height) == (WIDTH, HEIGHT)
    assert clip.truth.queries.tolist() == [[0, 7, 5], [1, 9, 8], [2, 39, 29]]
    np.testing.assert_array_equal(clip.truth.points, arrays()["points"])
    assert len(clip.frames) == T
    assert clip.frames[2].image[0, 0].tolist() == [200, 0, 20]  # RGB
    assert clip.truth.mask_areas is None


def test_occlusion_is_known_only_where_a_scored_point_is_marked(tmp_path):
    values = arrays()
    assert load_clip_folder(write_folder(tmp_path / "a", values)).truth.has_occlusion
    # As hand-labelled clips have it: what has no label is called occluded and is not scored.
    values["evaluate"] = ~values["occluded"]
    values["points"][values["occluded"]] = np.nan
    assert not load_clip_folder(write_folder(tmp_path / "b", values)).truth.has_occlusion
    values["has_occlusion"] = np.array(True)
    assert load_clip_folder(write_folder(tmp_path / "c", values)).truth.has_occlusion


def test_mask_areas_are_counted(tmp_path):
    folder = write_folder(tmp_path / "a", arrays())
    (folder / "masks").mkdir()
    for index in range(T):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[: index + 1, :5] = 255
        cv2.imwrite(str(folder / "masks" / f"{index:05d}.png"), mask)
    areas = load_clip_folder(folder).truth.mask_areas
    assert areas is not None and areas.tolist() == [5, 10, 15, 20]
    # Also for a bag's images, which may have another size than the masks.
    of_bag = load_truth(folder / "gt.npz", STAMPS, 2 * WIDTH, 2 * HEIGHT)
    assert of_bag.mask_areas is not None and of_bag.mask_areas.tolist() == [20, 40, 60, 80]
    (folder / "gt.npz").rename(folder / "run1.npz")
    assert load_truth(folder / "run1.npz", STAMPS, WIDTH, HEIGHT).mask_areas is None
    (folder / "run1.npz").rename(folder / "gt.npz")
    (folder / "masks" / "00003.png").unlink()
    with pytest.raises(GroundTruthError, match="3 masks for 4 frames"):
        load_clip_folder(folder)


@pytest.mark.parametrize("name", ["queries", "points", "occluded", "evaluate"])
def test_missing_array_is_named(tmp_path, name):
    values = arrays()
    del values[name]
    with pytest.raises(GroundTruthError, match=f"has no {name}"):
        load_clip_folder(write_folder(tmp_path / "a", values))


@pytest.mark.parametrize("name", ["points", "occluded", "evaluate"])
def test_wrong_shape_is_named(tmp_path, name):
    values = arrays()
    values[name] = values[name][:, :-1]
    with pytest.raises(GroundTruthError, match=f"^{name} in .*3 queries over 4 frames"):
        load_clip_folder(write_folder(tmp_path / "a", values))


def test_scored_point_without_position_is_refused(tmp_path):
    values = arrays()
    values["points"][0, 0] = np.nan
    with pytest.raises(GroundTruthError, match="NaN"):
        load_clip_folder(write_folder(tmp_path / "a", values))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(GroundTruthError, match=r"no gt\.npz"):
        load_clip_folder(tmp_path / "nowhere")
    folder = write_folder(tmp_path / "a", arrays())
    (folder / "gt.npz").write_bytes(b"PK not a zip")
    with pytest.raises(NpzError, match=r"cannot be read as \.npz"):
        load_clip_folder(folder)
    folder = write_folder(tmp_path / "b", arrays(), frames=0)
    with pytest.raises(VideoError, match="no picture"):
        load_clip_folder(folder)


def test_pickled_arrays_are_not_loaded(tmp_path):
    values = arrays()
    values["queries"] = np.array([object()], dtype=object)
    with pytest.raises(NpzError, match="Python objects, which are never loaded") as raised:
        load_clip_folder(write_folder(tmp_path / "a", values))
    assert "allow_pickle" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "place", "value", "message"),
    [
        ("queries", (1, 0), 4, r"query 1 .* frame 4, \(9, 8\) px: the frames are 0..3 of 40x30"),
        ("queries", (1, 0), -1, "query 1 .* frame -1"),
        ("queries", (1, 0), 0.5, "query 1 .* frame 0.5"),
        ("queries", (1, 0), np.nan, "query 1 .* frame nan"),
        ("queries", (2, 1), 31, r"query 2 .* \(39, 31\) px"),
        ("queries", (2, 2), np.inf, "query 2"),
        ("points", (0, 3), (20, 300), r"track 0 .* visible at \(20, 300\) px in frame 3"),
    ],
)
def test_what_lies_outside_the_clip_is_named(tmp_path, name, place, value, message):
    values = arrays()
    values[name][place] = value
    with pytest.raises(GroundTruthError, match=message):
        load_clip_folder(write_folder(tmp_path / "a", values))


def test_occluded_points_may_be_anywhere(tmp_path):
    values = arrays()
    values["points"][1, 2] = 1000, np.nan
    load_clip_folder(write_folder(tmp_path / "a", values))


def test_no_tracks(tmp_path):
    values = {name: array[:0] for name, array in arrays().items()}
    with pytest.raises(GroundTruthError, match=r"gt\.npz' holds no track"):
        load_clip_folder(write_folder(tmp_path / "a", values))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("queries", np.zeros(3), r"queries .* \(3,\): give rows of \(t, y, x\)"),
        ("queries", np.zeros((3, 2)), r"queries .* \(3, 2\)"),
        ("points", np.array(["text"]), "points .* <U4, not numbers"),
        ("evaluate", np.array(1.0), r"evaluate .* \(\)"),
    ],
)
def test_arrays_of_another_kind(tmp_path, name, value, message):
    with pytest.raises(GroundTruthError, match=message):
        load_clip_folder(write_folder(tmp_path / "a", {**arrays(), name: value}))


# Every kind of file at one door ---------------------------------------------------------------


def tap_vid() -> dict[str, np.ndarray]:
    values = arrays()
    return {
        "video": np.zeros((T, HEIGHT, WIDTH, 3), np.uint8),
        "points": (values["points"].astype(np.float64) + 0.5) / [WIDTH, HEIGHT],
        "occluded": values["occluded"],
    }


def run() -> Tracks:
    values = arrays()
    first = np.insert(values["points"][:, 0], 0, 0, axis=1)
    return Tracks(
        queries=first, points=values["points"], occluded=values["occluded"],
        confidence=np.ones((N, T), np.float32), stamps=STAMPS, width=WIDTH, height=HEIGHT,
    )  # fmt: skip


def test_clips_of_every_kind(tmp_path):
    folder = write_folder(tmp_path / "walk", arrays())
    assert [clip.name for clip in load_clips(folder)] == ["walk"]
    (tmp_path / "davis.pkl").write_bytes(pickle.dumps({"goat": tap_vid(), "judo": tap_vid()}))
    assert [clip.name for clip in load_clips(tmp_path / "davis.pkl")] == ["goat", "judo"]
    assert len(load_clips(tmp_path / "davis.pkl", "strided")[0].truth.queries) == N
    shown = (~arrays()["occluded"]).sum()
    for path in (folder, tmp_path / "davis.pkl"):
        for clip in load_clips(path, "every"):
            assert len(clip.truth.queries) == shown > N
    badja = tmp_path / "badja"
    (badja / "joint_annotations").mkdir(parents=True)
    shutil.move(folder / "frames", badja / "pictures")
    labels = [
        {"image_path": f"pictures/{index:05d}.png", "segmentation_path": f"masks/{index:05d}.png",
         "joints": [[5, 6]], "visibility": [True]}
        for index in (1, 3)
    ]  # fmt: skip
    (badja / "joint_annotations" / "dog.json").write_text(json.dumps(labels))
    for path in (badja, badja / "joint_annotations" / "dog.json"):
        (clip,) = load_clips(path)
        assert clip.name == "dog" and clip.truth.queries.tolist() == [[1, 6, 5]]


def test_truth_of_every_kind(tmp_path):
    folder = write_folder(tmp_path / "walk", arrays())
    known = load_clip_folder(folder).truth
    first = known.points[:, 0]  # all are visible there
    (tmp_path / "walk.csv").write_text(
        "track,stamp,x,y,occluded\n"
        + "".join(
            f"{track},{STAMPS[t]},{x},{y},{int(known.occluded[track, t])}\n"
            for track in range(N)
            for t, (x, y) in enumerate(known.points[track])
        )
    )
    (tmp_path / "walk.pkl").write_bytes(pickle.dumps([tap_vid()], 2))
    save_tracks(tmp_path / "walk.npz", run(), Settings())
    ids = np.arange(N, dtype=np.uint32)
    write_track_bag(tmp_path / "bag", run(), ids)
    for name in ("walk.csv", "walk.pkl", "walk.npz", "bag"):
        truth = load_truth(tmp_path / name, STAMPS, WIDTH, HEIGHT)
        assert truth.queries[:, 0].tolist() == [0] * N, name
        np.testing.assert_allclose(truth.queries[:, 1:], first, atol=1e-5)
        np.testing.assert_allclose(truth.points, known.points, atol=1e-5)
        np.testing.assert_array_equal(truth.occluded, known.occluded)
        assert truth.evaluate.all() and truth.has_occlusion
        everywhere = load_truth(tmp_path / name, STAMPS, WIDTH, HEIGHT, "every")
        assert len(everywhere.queries) == (~known.occluded).sum(), name
    truth = load_truth(folder / "gt.npz", STAMPS, WIDTH, HEIGHT)
    np.testing.assert_array_equal(truth.queries, known.queries)


def test_known_tracks_in_a_bag_come_before_recorded_ones(tmp_path):
    ids = np.arange(N, dtype=np.uint32)
    wrong = replace(run(), points=np.zeros((N, T, 2), np.float32))
    with new_bag(tmp_path / "bag") as bag:
        write_tracks(bag, "/tracks", wrong, ids, "camera")
        write_tracks(bag, TRUTH_TOPIC, run(), ids, "camera")
    truth = load_truth(tmp_path / "bag", STAMPS, WIDTH, HEIGHT)
    np.testing.assert_array_equal(truth.points, run().points)
    with new_bag(tmp_path / "two") as bag:
        write_tracks(bag, "/tracks", wrong, ids, "camera")
        write_tracks(bag, "/other", run(), ids, "camera")
    with pytest.raises(BagError, match="/other, /tracks"):
        load_truth(tmp_path / "two", STAMPS, WIDTH, HEIGHT)


def test_truth_of_another_clip(tmp_path):
    folder = write_folder(tmp_path / "walk", arrays())
    with pytest.raises(GroundTruthError, match="3 queries over 5 frames"):
        load_truth(folder / "gt.npz", np.arange(5), WIDTH, HEIGHT)
    with pytest.raises(GroundTruthError, match=r"query 2 .* of 20x15 px"):
        load_truth(folder / "gt.npz", STAMPS, WIDTH // 2, HEIGHT // 2)


@pytest.mark.parametrize("name", ["nowhere", "nowhere.npz", "text.txt"])
def test_what_holds_no_tracks(tmp_path, name):
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(GroundTruthError, match=name):
        load_truth(tmp_path / name, STAMPS, WIDTH, HEIGHT)
    with pytest.raises(GroundTruthError, match=name):
        load_clips(tmp_path / name)
    with pytest.raises(GroundTruthError, match="no clip with known tracks"):
        load_clips(tmp_path)
