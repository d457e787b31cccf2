from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dino_tracker_ros.evaluation.truths import tap_vid
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError
from dino_tracker_ros.evaluation.truths.tap_vid import load_tap_vid, load_tap_vid_truth

N, T, WIDTH, HEIGHT = 3, 7, 40, 20


def entry(seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    occluded = np.zeros((N, T), bool)
    occluded[0, :2] = occluded[1, 5] = True
    return {
        "video": random.integers(0, 256, (T, HEIGHT, WIDTH, 3), np.uint8),
        "points": random.random((N, T, 2)),
        "occluded": occluded,
    }


def jpegs(video: np.ndarray) -> list[bytes]:
    smooth = [cv2.GaussianBlur(image, (0, 0), 5) for image in video]
    return [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in smooth]


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def test_davis_is_a_dict_of_clips(tmp_path):
    content = {"goat": entry(1), "judo": entry(2)}
    clips = load_tap_vid(write(tmp_path / "davis.pkl", content), "strided")
    assert [clip.name for clip in clips] == ["goat", "judo"]
    truth = clips[1].truth
    assert (truth.width, truth.height, truth.has_occlusion) == (WIDTH, HEIGHT, True)
    assert truth.evaluate.all() and truth.mask_areas is None
    # Points 1 and 2 in frame 0, points 0 and 2 in frame 5.
    assert truth.queries[:, 0].tolist() == [0, 0, 5, 5]
    for query, track, known in zip(truth.queries, (1, 2, 0, 2), range(4)):
        points = content["judo"]["points"][track] * [WIDTH, HEIGHT] - 0.5
        np.testing.assert_allclose(truth.points[known], points, atol=1e-4)
        np.testing.assert_array_equal(truth.occluded[known], content["judo"]["occluded"][track])
        np.testing.assert_array_equal(query[1:], truth.points[known, int(query[0])])
    first = load_tap_vid(tmp_path / "davis.pkl", "first")[1].truth
    assert first.queries[:, 0].tolist() == [2, 0, 0]


def test_pixel_centres_are_at_integers(tmp_path):
    clip = entry()
    clip["occluded"][:] = False
    clip["points"][0, 0] = 0, 0  # the picture's corner is half a pixel off its first pixel
    clip["points"][1, 0] = 1, 1
    clip["points"][2, 0] = 0.5 / WIDTH, 1.5 / HEIGHT  # second pixel of the first column
    (loaded,) = load_tap_vid(write(tmp_path / "a.pkl", [clip]), "first")
    np.testing.assert_allclose(
        loaded.truth.queries[:, 1:], [[-0.5, -0.5], [WIDTH - 0.5, HEIGHT - 0.5], [0, 1]], atol=1e-6
    )


def test_frames_are_read_when_asked_for_and_are_ones_own(tmp_path):
    content = [entry(1), entry(2)]
    clips = load_tap_vid(write(tmp_path / "rgb_stacking.pkl", content), "first")
    assert [clip.name for clip in clips] == ["rgb_stacking_000", "rgb_stacking_001"]
    for _ in range(2):
        for clip, each in zip(clips, content):
            assert len(clip.frames) == T
            np.testing.assert_array_equal(clip.frames[3].image, each["video"][3])
    clips[0].frames[3].image[:] = 0
    np.testing.assert_array_equal(clips[0].frames[3].image, content[0]["video"][3])
    assert np.all(np.diff([frame.stamp for frame in clips[0].frames]) > 0)
    assert tap_vid._video.cache_info().currsize == 1
    # A clip is sent to another process by its place, not with its video.
    assert len(pickle.dumps(clips[0])) < 10_000


@pytest.mark.parametrize("kind", ["list", "array", "python 2"])
def test_kinetics_has_jpegs_in_several_shards(tmp_path, kind):
    folder = tmp_path / "kinetics"
    folder.mkdir()
    for number in range(3):
        clip = entry(number)
        encoded = jpegs(clip["video"])
        decoded = [cv2.imdecode(np.frombuffer(each, np.uint8), 1)[..., ::-1] for each in encoded]
        clip["video"] = {
            "list": encoded,
            "array": np.array(encoded),
            "python 2": [each.decode("latin-1") for each in encoded],
        }[kind]
        write(folder / f"{number:04d}_of_0010.pkl", [clip] if number < 2 else {"-x": clip})
    (folder / "readme.txt").write_text("not a pickle")
    clips = load_tap_vid(folder, "first")
    assert [clip.name for clip in clips] == ["0000_of_0010_000", "0001_of_0010_000", "-x"]
    np.testing.assert_array_equal(clips[2].frames[4].image, decoded[4])
    assert (clips[2].truth.width, clips[2].truth.height) == (WIDTH, HEIGHT)


def test_zips_are_read_in_place(tmp_path):
    with zipfile.ZipFile(tmp_path / "tapvid.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.md", "about")
        archive.writestr("../../tapvid_davis/davis.pkl", pickle.dumps({"goat": entry(1)}))
    (clip,) = load_tap_vid(tmp_path / "tapvid.zip", "strided")
    np.testing.assert_array_equal(clip.frames[6].image, entry(1)["video"][6])
    assert [file.name for file in tmp_path.rglob("*")] == ["tapvid.zip"]


def test_names_can_name_folders(tmp_path):
    content = {"../../etc": entry(), "a/b": entry(), "a_b": entry(), ".": entry(), 7: entry()}
    names = [clip.name for clip in load_tap_vid(write(tmp_path / "a.pkl", content), "first")]
    assert names == ["_.._etc", "a_b", "a_b_2", "clip", "7"]


def test_labels_a_little_outside_are_moved_to_the_border(tmp_path):
    clip = entry()
    clip["occluded"][:] = False
    clip["points"][0, 0] = -0.01, 1.02
    (loaded,) = load_tap_vid(write(tmp_path / "a.pkl", [clip]), "first")
    assert loaded.truth.queries[0].tolist() == [0, -0.5, HEIGHT - 0.5]


def broken(**changes: object) -> dict[str, Any]:
    return {name: value for name, value in {**entry(), **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (broken(video=None), "has no video"),
        (broken(points=None), "has no points"),
        (5, "has no video"),
        (broken(video=np.zeros((T, 3, HEIGHT, WIDTH), np.uint8)), r"uint8 \(7, 3, 20, 40\)"),
        (broken(video=np.zeros((T, HEIGHT, WIDTH, 3), np.float32)), "video of .* is float32"),
        (broken(video=[]), "video of .* is <class 'list'>"),
        (broken(video=[b"no jpeg"] * T), "frame 0 of .* cannot be decoded"),
        (broken(video=[b""] * T), "frame 0 of .* cannot be decoded"),
        (broken(video=entry()["video"][1:]), r"points \(3, 7, 2\) .* 6 frames need"),
        (broken(points=np.zeros((N, T, 3))), r"points \(3, 7, 3\)"),
        (broken(points=[[1.0]]), "points list"),
        (broken(occluded=np.zeros((N + 1, T), bool)), r"occluded \(4, 7\)"),
        (broken(occluded=np.ones((N, T), bool)), "no track that can be scored"),
        (broken(points=np.zeros((0, T, 2)), occluded=np.zeros((0, T), bool)), "no track"),
        (broken(points=np.full((N, T, 2), np.nan)), "query 0 .* nan"),
        (broken(points=20 * np.ones((N, T, 2))), r"query 0 .*\(799.5, 399.5\).*40x20"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, clip, message):
    file = write(tmp_path / "a.pkl", {"walk": clip})
    with pytest.raises(GroundTruthError, match=message) as caught:
        load_tap_vid(file, "first")
    assert "a.pkl: walk" in str(caught.value)


def test_visible_points_outside_are_refused(tmp_path):
    clip = entry()
    clip["points"][2, 6] = 0.5, 1.5
    with pytest.raises(GroundTruthError, match=r"visible at \(19.5, 29.5\) px in frame 6"):
        load_tap_vid(write(tmp_path / "a.pkl", [clip]), "first")
    clip["occluded"][2, 6] = True
    load_tap_vid(write(tmp_path / "a.pkl", [clip]), "first")


@pytest.mark.parametrize("content", [{}, [], "text", None])
def test_pickles_without_clips(tmp_path, content):
    with pytest.raises(GroundTruthError, match=r"a\.pkl.*clip"):
        load_tap_vid(write(tmp_path / "a.pkl", content), "first")


def test_damaged_files(tmp_path):
    whole = pickle.dumps({"walk": entry()})
    (tmp_path / "a.pkl").write_bytes(whole[:-100])
    with pytest.raises(GroundTruthError, match="not a whole pickle"):
        load_tap_vid(tmp_path / "a.pkl", "first")
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(GroundTruthError, match="cannot be read as zip"):
        load_tap_vid(tmp_path / "a.zip", "first")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.pkl", whole)
    damaged = bytearray((tmp_path / "b.zip").read_bytes())
    damaged[2000] ^= 255  # in the pixels: only the checksum tells
    (tmp_path / "b.zip").write_bytes(damaged)
    with pytest.raises(GroundTruthError, match="CRC"):
        load_tap_vid(tmp_path / "b.zip", "first")


def test_one_clip_serves_pictures_of_another_size(tmp_path):
    clip = entry()
    file = write(tmp_path / "a.pkl", {"walk": {**clip, "video": None}})
    truth = load_tap_vid_truth(file, "strided", T, 2 * WIDTH, 2 * HEIGHT)
    assert (truth.width, truth.height) == (2 * WIDTH, 2 * HEIGHT)
    np.testing.assert_allclose(
        truth.points[0], clip["points"][1] * [2 * WIDTH, 2 * HEIGHT] - 0.5, atol=1e-4
    )
    with pytest.raises(GroundTruthError, match=r"8 frames need \[N, 8, 2\]"):
        load_tap_vid_truth(file, "strided", T + 1, WIDTH, HEIGHT)
    write(file, {"walk": clip, "run": clip})
    with pytest.raises(GroundTruthError, match="holds 2 clips"):
        load_tap_vid_truth(file, "strided", T, WIDTH, HEIGHT)
