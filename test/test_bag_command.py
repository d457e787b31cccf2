"""The command dino-tracker bag: clips to bags and back, and one line for what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read and written by the package rosbags")

from bag_files import HEIGHT, WIDTH, bag_path, picture, write_pictures

from dino_tracker_ros import cli
from dino_tracker_ros.evaluation.bag_conversion import find_sources, tracks_of_truth
from dino_tracker_ros.evaluation.bags.images import read_bag
from dino_tracker_ros.evaluation.bags.reader import BagReader
from dino_tracker_ros.evaluation.bags.tracks import read_track_bag, write_tracks
from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.tracks_file import load_tracks
from dino_tracker_ros.evaluation.truths.clip_folder import load_clip_folder
from dino_tracker_ros.evaluation.truths.loading import load_clips, load_truth
from dino_tracker_ros.visualization.video import write_video

T, N = 6, 4
SECOND = 10**9


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    code = cli.main([str(each) for each in ("bag", *arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def pictures_folder(folder: Path, count: int = T) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:03d}.png"), picture(index)[..., ::-1])
    return folder


def clip_folder(folder: Path, has_occlusion: bool) -> Path:
    """Pictures and gt.npz with queries in several frames, unlabelled points and occluded ones."""
    pictures_folder(folder / "frames")
    random = np.random.default_rng(7)
    points = random.uniform(1, HEIGHT - 2, (N, T, 2)).astype(np.float32)
    times = np.array([0, 1, 0, 3])
    occluded = np.zeros((N, T), bool)
    evaluate = np.ones((N, T), bool)
    evaluate[2, 4] = evaluate[3, 0] = evaluate[1, 1] = False  # the last is a query's own frame
    if has_occlusion:
        occluded[0, 2:4] = True
        points[0, 2] = np.nan  # occluded is a label, where it is is not
    else:
        occluded = ~evaluate
        points[~evaluate] = np.nan
    queries = np.column_stack([times, points[np.arange(N), times][:, ::-1]])
    queries[1, 1:] = 5.5, 7.25  # of the query in a frame without a label
    np.savez(
        folder / "gt.npz", queries=queries.astype(np.float32), points=points, occluded=occluded,
        evaluate=evaluate,
    )  # fmt: skip
    return folder


def tap_vid_file(file: Path, names: list[str]) -> Path:
    points = np.random.default_rng(1).uniform(0.1, 0.9, (2, T, 2)).astype(np.float32)
    occluded = np.zeros((2, T), bool)
    occluded[1, :2] = True
    video = np.stack([picture(index) for index in range(T)])
    clips = {name: {"video": video, "points": points, "occluded": occluded} for name in names}
    file.write_bytes(pickle.dumps(clips))
    return file


# write ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3", "ros1"])
@pytest.mark.parametrize("form", ["raw", "png"])
def test_a_folder_of_pictures_becomes_a_bag(tmp_path, capsys, storage, form):
    source = pictures_folder(tmp_path / "walk")
    path = bag_path(tmp_path, storage)
    chosen = [] if storage == "ros1" else ["--storage", storage]
    code, out, _ = run(
        capsys, "write", source, "--out", path, "--format", form, "--topic", "cam/image",
        "--frame-id", "left", "--rate", "20", *chosen,
    )  # fmt: skip
    assert code == 0
    topic = "/cam/image" if form == "raw" else "/cam/image/compressed"
    assert out == f"wrote {path}: 6 images on {topic}\n"
    frames = read_bag(path)
    assert (frames.topic, frames.frame_id) == (topic, "left")
    assert frames.stamps == tuple(SECOND + index * SECOND // 20 for index in range(T))
    for index, frame in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(index))
    with BagReader(path) as reader:
        assert len(reader.topics) == 1


def test_a_video_becomes_a_bag_with_its_own_times(tmp_path, capsys):
    file = tmp_path / "walk.mp4"
    images = [np.full((HEIGHT, WIDTH, 3), 20 * index, np.uint8) for index in range(T)]
    write_video(file, images, 25.0)
    code, _, err = run(capsys, "write", file, "--out", tmp_path / "bag")
    assert code == 0, err
    frames = read_bag(tmp_path / "bag")
    assert [round((stamp - SECOND) / 1e6) for stamp in frames.stamps] == [0, 40, 80, 120, 160, 200]
    assert [round(frame.image.mean() / 20) for frame in frames] == list(range(T))


@pytest.mark.parametrize("has_occlusion", [True, False])
def test_known_tracks_travel_in_the_bag(tmp_path, capsys, has_occlusion):
    source = clip_folder(tmp_path / "walk", has_occlusion)
    code, out, err = run(capsys, "write", source, "--out", tmp_path / "bag")
    assert code == 0, err
    assert "6 images on /image_raw, 4 known tracks on /ground_truth/tracks" in out
    known = load_clip_folder(source).truth
    frames = read_bag(tmp_path / "bag")
    stamps = np.array(frames.stamps)
    back = load_truth(tmp_path / "bag", stamps, frames.width, frames.height)
    assert back.has_occlusion == known.has_occlusion == has_occlusion
    np.testing.assert_array_equal(back.queries, known.queries)
    others = np.ones((N, T), bool)  # a query's own frame is never scored
    others[np.arange(N), known.queries[:, 0].astype(int)] = False
    np.testing.assert_array_equal(back.evaluate[others], known.evaluate[others])
    scored = known.evaluate & others
    np.testing.assert_array_equal(back.occluded[scored], known.occluded[scored])
    visible = scored & ~known.occluded
    np.testing.assert_array_equal(back.points[visible], known.points[visible])


def test_every_track_can_be_asked_for_wherever_it_is_seen(tmp_path, capsys):
    source = clip_folder(tmp_path / "walk", True)
    code, _, err = run(capsys, "write", source, "--out", tmp_path / "bag", "--mode", "every")
    assert code == 0, err
    (clip,) = load_clips(source, "every")
    assert len(clip.truth.queries) > len(load_clip_folder(source).truth.queries)
    tracks, _ = read_track_bag(tmp_path / "bag")
    np.testing.assert_array_equal(tracks.queries, clip.truth.queries)


def test_a_label_that_is_not_scored_is_nan_and_occluded(tmp_path):
    truth = load_clip_folder(clip_folder(tmp_path / "walk", True)).truth
    tracks = tracks_of_truth(truth, np.arange(T, dtype=np.int64))
    assert np.isnan(tracks.points[2, 4]).all()
    assert tracks.occluded[2, 4]
    assert tracks.confidence[2, 4] == 0
    assert tracks.occluded[0, 2]
    assert np.isfinite(tracks.points[0, 2]).all()
    assert tracks.confidence[0, 2] == 1
    assert not tracks.occluded[1, 1]


def test_every_clip_of_a_tap_vid_file_becomes_a_bag(tmp_path, capsys):
    file = tap_vid_file(tmp_path / "davis.pkl", ["dog", "cat"])
    code, out, err = run(capsys, "write", file, "--out", tmp_path / "bags", "--mode", "first")
    assert code == 0, err
    assert len(out.splitlines()) == 2
    for clip in load_clips(file, "first"):
        path = tmp_path / "bags" / clip.name
        for frame, other in zip(read_bag(path), clip.frames):
            np.testing.assert_array_equal(frame.image, other.image)
        tracks, _ = read_track_bag(path)
        np.testing.assert_array_equal(tracks.queries, clip.truth.queries)
    code, _, err = run(capsys, "write", file, "--out", tmp_path / "a.bag")
    assert code == 2
    assert "holds 2 clips" in err


def test_sources_are_told_apart(tmp_path):
    plain = pictures_folder(tmp_path / "plain")
    nested = tmp_path / "nested"
    pictures_folder(nested / "frames")
    labelled = clip_folder(tmp_path / "labelled", True)
    pickled = tap_vid_file(tmp_path / "davis.pkl", ["dog"])
    found = [find_sources(path, "first") for path in (plain, nested, labelled, pickled)]
    assert [source.name for (source,) in found] == ["plain", "nested", "labelled", "dog"]
    assert [source.truth is None for (source,) in found] == [True, True, False, False]


def test_an_existing_bag_stays_unless_told_otherwise(tmp_path, capsys):
    source = pictures_folder(tmp_path / "walk")
    path = write_pictures(tmp_path / "bag", topics=("/old",))
    code, _, err = run(capsys, "write", source, "--out", path)
    assert code == 2
    assert f"'{path}' exists" in err
    assert read_bag(path).topic == "/old"
    code, _, _ = run(capsys, "write", source, "--out", path, "--overwrite")
    assert code == 0
    assert read_bag(path).topic == "/image_raw"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bag", "walk"]


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def widen(file: Path) -> None:
    cv2.imwrite(str(file), np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut_off, "cannot be decoded"), (widen, "image 3 of 'walk' is 42x24 px, the first 40x24")],
)
def test_a_bad_picture_leaves_no_bag(tmp_path, capsys, damage, message):
    source = pictures_folder(tmp_path / "walk")
    damage(source / "003.png")
    code, _, err = run(capsys, "write", source, "--out", tmp_path / "bag")
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topic", "a b"], "--topic 'a b' is no topic"),
        (["--topic", "/1st"], "--topic '/1st' is no topic"),
        (["--rate", "0"], "--rate is 0.0"),
        (["--rate", "nan"], "--rate is nan"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, capsys, options, message):
    source = pictures_folder(tmp_path / "walk")
    code, _, err = run(capsys, "write", source, "--out", tmp_path / "bag", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "bag").exists()


@pytest.mark.parametrize("name", ["nowhere", "empty", "text.txt"])
def test_what_is_no_clip_is_one_line(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("no video")
    code, _, err = run(capsys, "write", tmp_path / name, "--out", tmp_path / "bag")
    assert code == 2
    assert name in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "bag").exists()


# tracks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["npz", "csv", "pkl"])
def test_tracks_of_a_bag_become_a_file(tmp_path, capsys, ending):
    run(capsys, "write", clip_folder(tmp_path / "walk", True), "--out", tmp_path / "bag")
    known, _ = read_track_bag(tmp_path / "bag")
    file = tmp_path / f"tracks.{ending}"
    code, out, err = run(capsys, "tracks", tmp_path / "bag", "--out", file)
    assert code == 0, err
    assert out == f"wrote {file}: 4 tracks over 6 frames\n"
    if ending == "npz":
        np.testing.assert_array_equal(load_tracks(file).points, known.points)
    elif ending == "csv":
        truth = load_truth(file, known.stamps, WIDTH, HEIGHT)
        labelled = np.isfinite(known.points[..., 0])
        np.testing.assert_array_equal(truth.points[labelled], known.points[labelled])
    else:
        (clip,) = load_clips(file, "first")
        np.testing.assert_array_equal(clip.frames[2].image, picture(2))
        np.testing.assert_array_equal(clip.truth.occluded, known.occluded)
    code, _, err = run(capsys, "tracks", tmp_path / "bag", "--out", file)
    assert code == 2
    assert f"'{file}' exists" in err
    assert run(capsys, "tracks", tmp_path / "bag", "--out", file, "--overwrite")[0] == 0


def test_images_for_tap_vid_may_be_in_another_bag(tmp_path, capsys):
    run(capsys, "write", clip_folder(tmp_path / "walk", True), "--out", tmp_path / "bag")
    run(capsys, "write", tmp_path / "walk" / "frames", "--out", tmp_path / "images")
    file = tmp_path / "a.pkl"
    arguments = ["tracks", tmp_path / "bag", "--out", file, "--images", tmp_path / "images"]
    assert run(capsys, *arguments)[0] == 0
    np.testing.assert_array_equal(load_clips(file, "first")[0].frames[5].image, picture(5))
    code, _, err = run(capsys, *arguments, "--overwrite", "--image-topic", "/nothing")
    assert code == 2
    assert "no topic '/nothing' with images: choose from /image_raw" in err
    assert len(load_clips(file, "first")) == 1


def test_tap_vid_without_images_tells_how_to_name_them(tmp_path, capsys):
    run(capsys, "write", clip_folder(tmp_path / "walk", True), "--out", tmp_path / "bag")
    tracks, ids = read_track_bag(tmp_path / "bag")
    with new_bag(tmp_path / "bare") as bag:
        write_tracks(bag, "/tracks", tracks, ids, "camera")
    code, _, err = run(capsys, "tracks", tmp_path / "bare", "--out", tmp_path / "a.pkl")
    assert code == 2
    assert "--images names the bag that has them" in err
    assert not (tmp_path / "a.pkl").exists()


def test_a_bag_without_tracks_gives_no_file(tmp_path, capsys):
    path = write_pictures(tmp_path / "bag")
    code, _, err = run(capsys, "tracks", path, "--out", tmp_path / "a.npz")
    assert code == 2
    assert "has no topic with tracks" in err
    code, _, err = run(capsys, "tracks", path, "--out", tmp_path / "a.txt")
    assert code == 2
    assert "does not end in .npz, .csv or .pkl" in err
    assert list(tmp_path.iterdir()) == [path]


# info ----------------------------------------------------------------------------------------


def test_info_lists_topics_types_counts_and_times(tmp_path, capsys):
    stamp = 1_700_000_000 * SECOND
    path = write_pictures(
        tmp_path / "bag", topics=("/right", "/left"), stamps=[stamp, stamp + SECOND // 2]
    )
    code, out, _ = run(capsys, "info", path)
    assert code == 0
    head, *lines = out.splitlines()
    assert head == f"{path}: ROS 2, 4 messages in 0.500 s from 2023-11-14 22:13:20.000 UTC"
    assert [line.split() for line in lines] == [
        ["topic", "type", "messages"],
        ["/left", "sensor_msgs/msg/Image", "2"],
        ["/right", "sensor_msgs/msg/Image", "2"],
    ]


def test_info_of_a_damaged_bag_is_one_line(tmp_path, capsys):
    path = write_pictures(tmp_path / "bag")
    (path / "bag.mcap").write_bytes(b"")
    code, out, err = run(capsys, "info", path)
    assert (code, out) == (2, "")
    assert "seems to be empty" in err
    assert len(err.splitlines()) == 1
