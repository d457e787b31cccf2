"""Images of bags: what is read, what is left out, and what every kind of damage says."""

from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="bags are read and written by the package rosbags")

from bag_files import (
    HEIGHT,
    STAMPS,
    STORAGES,
    WIDTH,
    bag_path,
    open_bag,
    picture,
    storage_file,
    write_pictures,
    write_raw,
)

from dino_tracker_ros.evaluation.bags import images
from dino_tracker_ros.evaluation.bags.images import read_bag
from dino_tracker_ros.evaluation.bags.message_types import (
    COMPRESSED_IMAGE,
    DEFINITIONS,
    IMAGE,
    typestore,
)
from dino_tracker_ros.evaluation.bags.reader import BagError, BagReader
from dino_tracker_ros.evaluation.bags.writer import BagWriter, new_bag
from dino_tracker_ros.ros.clip_buffer import CameraFrame, ClipBuffer
from dino_tracker_ros.ros.node_settings import StreamSettings
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.visualization.output import OutputError

ROOT = Path(__file__).resolve().parent.parent
SECOND = 10**9


# What is read --------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("form", ["raw", "png"])
def test_images_come_back_as_they_were(tmp_path, storage, form):
    path = write_pictures(bag_path(tmp_path, storage), storage, form=form)
    frames = read_bag(path)
    assert frames.stamps == STAMPS
    assert (frames.topic, frames.frame_id) == ("/image_raw", "camera")
    assert (frames.width, frames.height) == (WIDTH, HEIGHT)
    for index, frame in enumerate(frames):
        assert frame.stamp == STAMPS[index]
        assert frame.image.flags.writeable
        np.testing.assert_array_equal(frame.image, picture(index))


def test_jpeg_comes_back_nearly(tmp_path):
    smooth = cv2.GaussianBlur(picture(0), (0, 0), 4)
    with new_bag(tmp_path / "bag") as bag:
        bag.write_image("/image/compressed", Frame(smooth, 5), "camera", "jpeg")
    difference = read_bag(tmp_path / "bag")[0].image.astype(int) - smooth
    assert 0 < np.abs(difference).max() < 12


def test_padded_rows_and_other_encodings_are_understood(tmp_path):
    rows = picture(1)[..., ::-1].reshape(HEIGHT, -1)
    with new_bag(tmp_path / "bag") as bag:
        write_raw(
            bag, 5, picture(1), encoding="bgr8", step=3 * WIDTH + 6,
            data=np.pad(rows, ((0, 0), (0, 6))).reshape(-1),
        )  # fmt: skip
    np.testing.assert_array_equal(read_bag(tmp_path / "bag")[0].image, picture(1))


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE", "STORAGE"])
def test_compressed_bags_are_read(tmp_path, mode):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    writer = Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        bag = BagWriter(writer, is_ros1=False)
        for index, stamp in enumerate(STAMPS):
            bag.write_image("/image", Frame(picture(index), stamp), "camera")
    frames = read_bag(tmp_path / "bag")
    np.testing.assert_array_equal(frames[5].image, picture(5))
    np.testing.assert_array_equal(frames[2].image, picture(2))


def test_one_file_of_a_bag_can_be_named_alone(tmp_path):
    for storage in ("mcap", "sqlite3"):
        path = write_pictures(tmp_path / storage, storage)
        assert read_bag(storage_file(path)).stamps == STAMPS


@pytest.mark.parametrize("storage", STORAGES)
def test_frames_are_read_in_any_order(tmp_path, storage):
    stamps = [STAMPS[0] + 10_000_000 * index for index in range(300)]
    frames = read_bag(write_pictures(bag_path(tmp_path, storage), storage, stamps=stamps))
    for index in (299, 0, 1, 150, 149, 149, 150, -1, 5):
        np.testing.assert_array_equal(frames[index].image, picture(index % 300))
    assert [frame.stamp for frame in frames[10:20:3]] == [stamps[i] for i in (10, 13, 16, 19)]
    with pytest.raises(IndexError):
        frames[300]


def test_images_recorded_at_one_time_are_told_apart(tmp_path):
    with new_bag(tmp_path / "bag") as bag:
        for index in range(8):
            write_raw(bag, 1000 + index, picture(index), time=7 * (index // 4))
    frames = read_bag(tmp_path / "bag")
    for index in (6, 2, 7, 3, 0, 5):
        np.testing.assert_array_equal(frames[index].image, picture(index))


def test_a_bag_that_shrinks_while_it_is_read_is_named(tmp_path):
    path = write_pictures(tmp_path / "bag", "sqlite3")
    frames = read_bag(path)
    write_pictures(tmp_path / "short", "sqlite3", stamps=STAMPS[:2])
    frames._reader = BagReader(tmp_path / "short")
    with pytest.raises(BagError, match="image 5 is gone"):
        frames[5]


def test_a_bag_split_into_files_is_one_recording(tmp_path):
    path = write_pictures(tmp_path / "bag", "sqlite3", stamps=STAMPS[:3])
    # Recorded a little before the end of the first file, as when two writers take turns.
    with new_bag(tmp_path / "more", "sqlite3") as bag:
        for index, stamp in enumerate(STAMPS[3:], start=3):
            write_raw(bag, stamp, picture(index), time=stamp - 70_000_000)
    storage_file(tmp_path / "more").rename(path / "more.db3")
    metadata = path / "metadata.yaml"
    text = metadata.read_text().replace("message_count: 3", "message_count: 6")
    text = text.replace("file_paths:\n  - bag.db3", "file_paths:\n  - bag.db3\n  - more.db3")
    metadata.write_text(text)
    frames = read_bag(path)
    assert frames.stamps == STAMPS
    for index in (5, 0, 1, 2, 3, 4, 5, 3, 2, 1):
        np.testing.assert_array_equal(frames[index].image, picture(index))


def test_an_image_is_decoded_only_when_it_is_asked_for(tmp_path, monkeypatch):
    frames = read_bag(write_pictures(tmp_path / "bag"))
    decoded = []
    original = images._pixels
    monkeypatch.setattr(images, "_pixels", lambda *a: decoded.append(1) or original(*a))
    assert len(frames) == 6
    _ = frames[4], frames[5]
    assert len(decoded) == 2


def test_a_range_of_time_counts_from_the_first_image(tmp_path):
    path = write_pictures(tmp_path / "bag")
    assert read_bag(path, start=0.05, end=0.2).stamps == STAMPS[1:4]
    assert read_bag(path, start=0.1).stamps == STAMPS[2:]
    assert read_bag(path, end=0.1).stamps == STAMPS[:2]
    assert read_bag(path, start=0.05, count=2).stamps == STAMPS[1:3]
    np.testing.assert_array_equal(read_bag(path, start=0.15)[0].image, picture(3))
    with pytest.raises(BagError, match=r"no image from 1 s to 2 s: its images are at 0 .. 0.250 s"):
        read_bag(path, start=1, end=2)
    for start, end in ((-1, None), (0.2, 0.1), (None, 0), (float("nan"), None)):
        with pytest.raises(BagError, match="is no range of time"):
            read_bag(path, start=start, end=end)


# Topics --------------------------------------------------------------------------------------


def test_a_topic_must_be_named_where_there_are_several(tmp_path):
    path = write_pictures(tmp_path / "bag", topics=("/left", "/right"))
    with pytest.raises(BagError, match="2 topics with images: choose from /left, /right"):
        read_bag(path)
    with pytest.raises(BagError, match="no topic '/middle' with images: choose from /left, /right"):
        read_bag(path, "/middle")
    assert len(read_bag(path, "/right")) == 6


def test_a_topic_of_the_wrong_type_is_named_with_its_type(tmp_path):
    path = tmp_path / "bag"
    with new_bag(path) as bag:
        bag.write("/header", "std_msgs/msg/Header", 5, bag.header(5, "camera"))
    with pytest.raises(BagError, match="has no topic with images"):
        read_bag(path)
    with new_bag(path, overwrite=True) as bag:
        bag.write("/header", "std_msgs/msg/Header", 5, bag.header(5, "camera"))
        bag.write_image("/image", Frame(picture(0), 5), "camera")
    with pytest.raises(BagError, match=r"'/header' of .* holds std_msgs/msg/Header, not images"):
        read_bag(path, "/header")


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_unknown_types_on_other_topics_do_not_matter(tmp_path, storage):
    path = tmp_path / "bag"
    with open_bag(path, storage) as bag:
        for name, definition in [
            ("odd_msgs/msg/Odd", "this is; no definition {"),
            ("odd_msgs/msg/Lost", "odd_msgs/NeverDefined field"),
            # Another one than everyone's, as a foreign file may bring.
            ("std_msgs/msg/Header", "string only"),
        ]:
            odd = bag._writer.add_connection(
                f"/{name}", name, msgdef=definition, rihs01="RIHS01_" + "0" * 64
            )
            bag._writer.write(odd, 1, b"\x00\x01\x00\x00nonsense")
        bag.write_image("/image", Frame(picture(3), 5), "camera")
    np.testing.assert_array_equal(read_bag(path)[0].image, picture(3))
    with pytest.raises(BagError, match="holds odd_msgs/msg/Odd, not images"):
        read_bag(path, "/odd_msgs/msg/Odd")


@pytest.mark.parametrize("storage", STORAGES)
def test_an_empty_topic_says_so(tmp_path, storage):
    path = bag_path(tmp_path, storage)
    with open_bag(path, storage) as bag:
        bag.write("/header", "std_msgs/msg/Header", 5, bag.header(5, "camera"))
        bag._writer.add_connection("/image", IMAGE, typestore=typestore(storage == "ros1"))
    with pytest.raises(BagError, match="topic /image: there is no image on it"):
        read_bag(path)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_without_any_message_says_so(tmp_path, storage):
    path = bag_path(tmp_path, storage)
    with open_bag(path, storage):
        pass
    with pytest.raises(BagError, match="has no topic with images"):
        read_bag(path)
    with BagReader(path) as reader:
        assert reader.span == (0, 0)


# Stamps --------------------------------------------------------------------------------------


def test_late_and_double_images_are_left_out_with_one_warning(tmp_path, caplog):
    stamps = [SECOND * 5 + 1000 * step for step in (5, 9, 7, 9, 9, 12, 11, 20)]
    path = write_pictures(tmp_path / "bag", "mcap", stamps=stamps)
    # The storage orders by time of recording; the order of arrival is what makes an image late.
    path2 = tmp_path / "arrived"
    with new_bag(path2) as bag:
        for index, stamp in enumerate(stamps):
            write_raw(bag, stamp, picture(index), time=100 + index)
    assert len(read_bag(path)) == 6
    caplog.clear()
    frames = read_bag(path2)
    assert frames.stamps == tuple(stamps[i] for i in (0, 1, 5, 7))
    for index, number in enumerate((0, 1, 5, 7)):
        np.testing.assert_array_equal(frames[index].image, picture(number))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "4 of 8 images are left out as the node would: 2 with the stamp of the one before" in (
        record.getMessage()
    )
    assert "2 older than it" in record.getMessage()


def test_the_images_are_those_that_the_node_would_track(tmp_path):
    random = np.random.default_rng(3)
    shuffled = 10 * SECOND + np.arange(80) * 33_000_000 + random.integers(-90, 90, 80) * 1_000_000
    shuffled[[20, 50]] = shuffled[[19, 49]]
    buffer = ClipBuffer(capacity=100, jump_back=StreamSettings().jump_back)
    with new_bag(tmp_path / "bag") as bag:
        for number, stamp in enumerate(shuffled.tolist()):
            frame = Frame(picture(number), stamp)
            buffer.put(CameraFrame(frame, "camera"))
            write_raw(bag, stamp, frame.image, time=number)
    node = []
    while (item := buffer.take(0.0)) is not None:
        node.append(item.frame.stamp)
    assert 20 < len(node) < 79
    assert list(read_bag(tmp_path / "bag").stamps) == node


def test_a_jump_back_in_time_is_refused_and_can_be_cut_off(tmp_path):
    stamps = [SECOND + 100_000_000 * step for step in (0, 1, 2, 3, 0, 1)]
    with new_bag(tmp_path / "bag") as bag:
        for index, stamp in enumerate(stamps):
            write_raw(bag, stamp, picture(index), time=index)
    with pytest.raises(BagError, match=r"back by 0.300 s at image 4: .* take at most 4 images"):
        read_bag(tmp_path / "bag")
    assert read_bag(tmp_path / "bag", count=4).stamps == tuple(stamps[:4])
    assert read_bag(tmp_path / "bag", end=0.3).stamps == tuple(stamps[:3])


def test_empty_headers_give_way_to_the_times_of_recording(tmp_path, caplog):
    with new_bag(tmp_path / "bag") as bag:
        for index in range(3):
            write_raw(bag, 0, picture(index), time=1000 + index)
    assert read_bag(tmp_path / "bag").stamps == (1000, 1001, 1002)
    assert "no stamps, the times of recording are used" in caplog.text


# Damage --------------------------------------------------------------------------------------


def test_images_of_two_sizes_are_refused(tmp_path):
    for form in ("raw", "png"):
        with new_bag(tmp_path / form) as bag:
            for index, height in enumerate((24, 24, 30)):
                frame = Frame(picture(index, height), STAMPS[index])
                bag.write_image("/image", frame, "camera", form)
        with pytest.raises(BagError, match="image 2 is 40x30 px, those before it are 40x24"):
            read_bag(tmp_path / form)
        assert len(read_bag(tmp_path / form, end=0.1)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoding": "rgb9"}, "image 1 cannot be decoded: .*rgb9"),
        ({"data": np.zeros(10, np.uint8)}, "image 1 cannot be decoded: .*10 bytes"),
        ({"height": 0}, "image 1 cannot be decoded: .*40x0"),
    ],
)
def test_an_image_that_contradicts_itself_is_named(tmp_path, changes, message):
    with new_bag(tmp_path / "bag") as bag:
        write_raw(bag, 5, picture(0))
        write_raw(bag, 6, picture(1), **changes)
    with pytest.raises(BagError, match=message):
        read_bag(tmp_path / "bag")
    assert len(read_bag(tmp_path / "bag", count=1)) == 1


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    jpeg = cv2.imencode(".jpeg", picture(0))[1].reshape(-1)
    noise = np.arange(99, dtype=np.uint8)
    for number, data in enumerate((jpeg[: len(jpeg) // 2], jpeg[:0], noise)):
        path = tmp_path / str(number)
        with new_bag(path) as bag:
            message = bag.message(
                COMPRESSED_IMAGE, header=bag.header(5, "camera"), format="jpeg", data=data
            )
            bag.write("/image/compressed", COMPRESSED_IMAGE, 5, message)
        with pytest.raises(BagError, match="image 0 cannot be decoded"):
            read_bag(path)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("data", [b"", b"\x00\x01\x00\x00", b"\x00\x01\x00\x00" + b"\xff" * 60])
def test_a_corrupted_message_is_named(tmp_path, storage, data):
    path = bag_path(tmp_path, storage)
    with open_bag(path, storage) as bag:
        bag.write_image("/image", Frame(picture(0), 5), "camera")
        bag.write_serialized("/image", IMAGE, 77, data)
    message = rf"on /image in bag .*, recorded at 77 ns, is damaged: its {len(data)} bytes"
    with pytest.raises(BagError, match=message):
        read_bag(path)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.97])
def test_a_truncated_bag_is_one_clear_error(tmp_path, storage, keep):
    path = write_pictures(bag_path(tmp_path, storage), storage)
    file = storage_file(path)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    for damaged in {path, file}:
        with pytest.raises(BagError, match=str(damaged)) as caught:
            read_bag(damaged)
        assert "\n" not in str(caught.value)
        known = ("cannot be read", "empty file", "cut off")
        assert any(words in str(caught.value) for words in known)


@pytest.mark.parametrize("storage", STORAGES)
def test_whatever_bytes_change_the_answer_is_images_or_a_bag_error(tmp_path, storage):
    path = write_pictures(bag_path(tmp_path, storage), storage, stamps=STAMPS[:3])
    file = storage_file(path)
    whole = np.frombuffer(file.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = whole.copy()
        places = random.integers(0, len(whole), random.integers(1, 200))
        damaged[places] = random.integers(0, 256, len(places))
        file.write_bytes(damaged.tobytes())
        try:
            for frame in read_bag(path):
                assert frame.image.ndim == 3
        except BagError:
            refused += 1
    assert refused > 5


def test_a_folder_without_metadata_names_the_way_out(tmp_path):
    path = write_pictures(tmp_path / "bag")
    (path / "metadata.yaml").unlink()
    with pytest.raises(BagError, match=r"no metadata.yaml: .*'ros2 bag reindex'.*bag.mcap"):
        read_bag(path)
    assert len(read_bag(path / "bag.mcap")) == 6


@pytest.mark.parametrize("text", ["", "- [", "{key}: 3", "{key}: {version: 99}"])
def test_damaged_metadata_is_one_clear_error(tmp_path, text):
    path = write_pictures(tmp_path / "bag")
    (path / "metadata.yaml").write_text(text.replace("{key}", "rosbag2_bagfile_information"))
    with pytest.raises(BagError, match=f"'{path}' cannot be read"):
        read_bag(path)


def test_metadata_that_lists_more_than_there_is_gets_refused(tmp_path):
    path = write_pictures(tmp_path / "bag", "sqlite3")
    shorter = write_pictures(tmp_path / "shorter", "sqlite3", stamps=STAMPS[:2])
    storage_file(shorter).replace(storage_file(path))
    with pytest.raises(BagError, match="lists 6 messages on /image_raw, but its files hold 2"):
        read_bag(path)
    storage_file(path).unlink()
    with pytest.raises(BagError, match=r"cannot be read: Some database files are missing"):
        read_bag(path)


def test_what_is_no_bag_at_all_is_named(tmp_path):
    with pytest.raises(BagError, match="there is no bag"):
        read_bag(tmp_path / "none")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BagError, match=r"is no bag: it has no metadata.yaml"):
        read_bag(tmp_path / "folder")
    (tmp_path / "film.mp4").write_bytes(b"not a bag")
    with pytest.raises(BagError, match=r"is no bag: give a folder with metadata.yaml"):
        read_bag(tmp_path / "film.mp4")
    for name in ("a.bag", "a.mcap", "a.db3"):
        (tmp_path / name).write_bytes(b"not a bag")
        with pytest.raises(BagError, match="cannot be read"):
            read_bag(tmp_path / name)


def test_bags_need_no_ros():
    script = """
import sys
for name in ("rclpy", "builtin_interfaces", "sensor_msgs", "std_msgs", "dino_tracker_ros.msg"):
    sys.modules[name] = None
from dino_tracker_ros.evaluation import bag_conversion
from dino_tracker_ros.evaluation.bags import images, tracks
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


# Writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", STORAGES)
def test_a_bag_is_not_replaced_unasked(tmp_path, storage):
    path = write_pictures(bag_path(tmp_path, storage), storage)
    with pytest.raises(OutputError, match="exists"), open_bag(path, storage):
        pytest.fail("the bag must not be opened")
    with new_bag(path, "mcap", overwrite=True) as bag:
        bag.write_image("/new", Frame(picture(0), 5), "camera")
    with BagReader(path) as reader:
        assert [topic.name for topic in reader.topics] == ["/new"]
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_bag_is_ever_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("1")
    with pytest.raises(OutputError, match="is no such bag"), new_bag(
        tmp_path / "thesis", overwrite=True
    ):
        pytest.fail("the bag must not be opened")
    assert (tmp_path / "thesis" / "chapter").exists()
    with pytest.raises(OutputError, match=r"leave off \.mcap"), new_bag(tmp_path / "a.mcap"):
        pytest.fail("the bag must not be opened")


@pytest.mark.parametrize("error", [OSError(28, "No space left"), sqlite3.OperationalError("full")])
def test_a_full_disk_is_one_line(tmp_path, error):
    with pytest.raises(OutputError, match=r"'.*bag' cannot be written: .*(No space|full)"):
        begin_a_bag_and_fail(tmp_path / "bag", error)
    assert list(tmp_path.iterdir()) == []


def begin_a_bag_and_fail(path, error):
    with new_bag(path, "mcap", overwrite=True) as bag:
        bag.write_image("/new", Frame(picture(0), 5), "camera")
        raise error


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("error", [BagError, KeyboardInterrupt])
def test_a_bag_that_is_not_finished_leaves_nothing(tmp_path, storage, error):
    path = bag_path(tmp_path, storage)
    for before in (False, True):
        if before:
            write_pictures(path, storage)
        with pytest.raises(error):
            begin_a_bag_and_fail(path, error)
        assert list(tmp_path.iterdir()) == ([path] if before else [])
    assert len(read_bag(path)) == 6


def test_the_message_definitions_are_those_of_the_package():
    for name, definition in DEFINITIONS.items():
        file = ROOT / "msg" / f"{name.split('/')[-1]}.msg"
        lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
        assert definition.split() == " ".join(lines).split()
