from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dino_tracker_ros.evaluation.truths.badja import load_badja, load_badja_truth
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruthError

T, WIDTH, HEIGHT = 6, 96, 54  # a twentieth of 1920 x 1080
LABELLED = (1, 3, 5)
# (row, column) of four joints in the three labelled pictures, and whether they are visible.
JOINTS = [
    [[10, 20], [0, 0], [500, 900], [7, 7]],
    [[12, 22], [30, 31], [600, 1000], [7, 7]],
    [[14, 24], [32, 33], [700, 1100], [7, 7]],
]
VISIBLE = [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]]


def labels(sequence: str = "DAVIS/{}/Full-Resolution/dog/", scale: float = 1.0) -> list[Any]:
    return [
        {
            "image_path": f"{sequence.format('JPEGImages')}{frame:05d}.jpg",
            "segmentation_path": f"{sequence.format('Annotations')}{frame:05d}.png",
            "joints": (np.array(joints) * scale).tolist(),
            "visibility": [bool(each) for each in visible],
        }
        for frame, joints, visible in zip(LABELLED, JOINTS, VISIBLE)
    ]


def write_labels(folder: Path, name: str, content: object) -> Path:
    (folder / "joint_annotations").mkdir(parents=True, exist_ok=True)
    file = folder / "joint_annotations" / f"{name}.json"
    file.write_text(json.dumps(content))
    return file


def write_pictures(images: Path, masks: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    for folder in (images, masks):
        folder.mkdir(parents=True)
    for index in range(T):
        cv2.imwrite(str(images / f"{index:05d}.jpg"), np.full((height, width, 3), 40 * index))
        mask = np.zeros((height, width), np.uint8)
        mask[: index + 1, :10] = 128
        cv2.imwrite(str(masks / f"{index:05d}.png"), mask)


def name_of(label: Any, stem: str) -> str:
    return str(Path(label["image_path"]).with_name(f"{stem}.jpg"))


@pytest.fixture
def badja(tmp_path: Path) -> Path:
    """With the small pictures of DAVIS."""
    write_labels(tmp_path, "dog", labels())
    davis = tmp_path / "DAVIS"
    write_pictures(davis / "JPEGImages" / "480p" / "dog", davis / "Annotations" / "480p" / "dog")
    return tmp_path


def check_dog(truth: Any) -> None:
    assert (truth.width, truth.height) == (WIDTH, HEIGHT)
    assert not truth.has_occlusion
    # The fourth joint is visible once, so there is nothing to score.
    assert truth.points.shape == (3, T, 2)
    # (x, y): a twentieth of (column, row), at the joint's first visible picture.
    np.testing.assert_allclose(truth.queries, [[1, 1, 0.5], [3, 1.55, 1.5], [1, 45, 25]])
    assert truth.evaluate.tolist() == [
        [False, True, False, True, False, False],
        [False, False, False, True, False, True],
        [False, True, False, False, False, True],
    ]
    np.testing.assert_array_equal(truth.occluded, ~truth.evaluate)
    np.testing.assert_array_equal(np.isfinite(truth.points).all(-1), truth.evaluate)
    np.testing.assert_allclose(truth.points[2, 5], [55, 35])


def test_small_pictures_scale_the_labels(badja):
    (clip,) = load_badja(badja)
    assert (clip.name, len(clip.frames)) == ("dog", T)
    assert abs(int(clip.frames[3].image[0, 0, 0]) - 120) <= 1
    check_dog(clip.truth)
    assert clip.truth.mask_areas is not None
    assert clip.truth.mask_areas.tolist() == [0, 20, 0, 40, 0, 60]  # where there are labels


def test_one_file_of_labels_is_one_clip(badja):
    write_labels(badja, "other", labels())
    assert [clip.name for clip in load_badja(badja)] == ["dog", "other"]
    (clip,) = load_badja(badja / "joint_annotations" / "dog.json")
    assert clip.name == "dog"


def test_full_resolution_comes_first_and_is_not_scaled(badja):
    davis = badja / "DAVIS"
    full = "Full-Resolution"
    write_pictures(
        davis / "JPEGImages" / full / "dog", davis / "Annotations" / full / "dog", 1920, 1080
    )
    (clip,) = load_badja(badja)
    assert (clip.truth.width, clip.truth.height) == (1920, 1080)
    assert clip.truth.queries[2].tolist() == [1, 900, 500]
    assert clip.truth.mask_areas is not None and clip.truth.mask_areas[3] == 40


def test_other_videos_are_numbered_by_their_order(tmp_path):
    content = labels("extra_videos/impala/{}/", scale=0.04)
    for entry, number in zip(content, (63, 65, 67)):
        for key in ("image_path", "segmentation_path"):
            path = Path(entry[key])
            entry[key] = str(path.with_name(f"{number:05d}{path.suffix}"))
    file = write_labels(tmp_path, "impala", content)
    pictures = tmp_path / "extra_videos" / "impala"
    write_pictures(pictures / "JPEGImages", pictures / "Annotations")
    for folder in ("JPEGImages", "Annotations"):
        for path in sorted((pictures / folder).iterdir()):
            path.rename(path.with_name(f"{int(path.stem) + 62:05d}{path.suffix}"))
    (clip,) = load_badja(tmp_path)
    assert clip.truth.queries[:, 0].tolist() == [1, 3, 1]
    np.testing.assert_allclose(clip.truth.queries[2, 1:], [36, 20])
    # The masks are half as large as the pictures; their area is that in the pictures.
    for path in (pictures / "Annotations").iterdir():
        cv2.imwrite(str(path), np.full((HEIGHT // 2, WIDTH // 2), 255, np.uint8))
    (clip,) = load_badja(file)
    assert clip.truth.mask_areas is not None and clip.truth.mask_areas[1] == WIDTH * HEIGHT


def test_sequences_without_pictures_are_left_out(badja, caplog):
    write_labels(badja, "tiger", labels("extra_videos/tiger/{}/"))
    assert [clip.name for clip in load_badja(badja)] == ["dog"]
    assert "tiger.json' is left out" in caplog.text
    with pytest.raises(GroundTruthError, match=r"no pictures.*extra_videos/tiger/JPEGImages"):
        load_badja(badja / "joint_annotations" / "tiger.json")


def test_no_pictures_at_all(tmp_path):
    write_labels(tmp_path, "dog", labels())
    with pytest.raises(GroundTruthError, match="put DAVIS and extra_videos into it"):
        load_badja(tmp_path)


def test_masks_are_wanted_all_or_not_at_all(badja):
    masks = badja / "DAVIS" / "Annotations" / "480p" / "dog"
    (masks / "00003.png").unlink()
    with pytest.raises(GroundTruthError, match=r"00003\.png' cannot be decoded"):
        load_badja(badja)
    masks.rename(masks.with_name("away"))
    assert load_badja(badja)[0].truth.mask_areas is None


def test_labels_for_a_bag_of_the_same_pictures(badja, tmp_path):
    check_dog(load_badja_truth(badja / "joint_annotations" / "dog.json", T, WIDTH, HEIGHT))
    alone = write_labels(tmp_path / "elsewhere", "dog", labels())
    check_dog(load_badja_truth(alone, T, WIDTH, HEIGHT))
    with pytest.raises(GroundTruthError, match=r"picture 00005, .* not among the 5 frames"):
        load_badja_truth(alone, 5, WIDTH, HEIGHT)
    alone = write_labels(tmp_path / "elsewhere", "impala", labels("extra_videos/impala/{}/"))
    with pytest.raises(GroundTruthError, match="is not there, so that its size and number"):
        load_badja_truth(alone, T, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: labels[0].pop("joints"), "KeyError 'joints'"),
        (lambda labels: labels[0]["joints"].pop(), "cannot be read as BADJA labels"),
        (lambda labels: [each["joints"].pop() for each in labels], r"joints \(3, 3, 2\).*\(3, 4\)"),
        (lambda labels: labels.clear(), "joints"),
        (lambda labels: labels[0].update(image_path=3), "cannot be read"),
        (lambda labels: labels[0].update(image_path=labels[1]["image_path"]), "same picture twice"),
        (lambda labels: labels[0].update(image_path="elsewhere/00001.jpg"), "several folders"),
        (lambda labels: labels[0].update(image_path=name_of(labels[0], "00009")), "00009"),
        (lambda labels: labels[0]["joints"][0].__setitem__(0, 2000), "outside|query 0"),
        (lambda labels: [each.update(visibility=[False] * 4) for each in labels], "no track"),
    ],
)
def test_labels_that_do_not_fit(badja, change, message):
    content = labels()
    change(content)
    file = write_labels(badja, "dog", content)
    with pytest.raises(GroundTruthError, match=message) as caught:
        load_badja(badja)
    assert file.name in str(caught.value)


def test_what_is_no_json(badja):
    file = badja / "joint_annotations" / "dog.json"
    for text in ("{", "5", "[5]", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(GroundTruthError, match="cannot be read as BADJA labels"):
            load_badja(file)
