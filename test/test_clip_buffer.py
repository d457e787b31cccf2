"""The queue between camera and worker: order, bounds, thinning, and a count for every frame."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from dino_tracker_ros.ros.clip_buffer import CameraFrame, ClipBuffer, Drop
from dino_tracker_ros.tracking.clip import Frame


def frame(milliseconds: int, size: tuple[int, int] = (4, 6)) -> CameraFrame:
    image = np.zeros((*size, 3), np.uint8)
    return CameraFrame(Frame(image, milliseconds * 1_000_000), "camera")


def taken(buffer: ClipBuffer) -> list[int]:
    stamps = []
    while (item := buffer.take(0)) is not None:
        stamps.append(item.frame.stamp // 1_000_000)
    return stamps


def test_frames_come_out_in_order() -> None:
    buffer = ClipBuffer(capacity=10)
    for t in (0, 33, 66):
        buffer.put(frame(t))
    assert buffer.newest_stamp == 66_000_000
    assert taken(buffer) == [0, 33, 66]
    assert buffer.counts().received == 3
    assert sum(buffer.counts().dropped.values()) == 0


def test_empty_buffer_waits_and_gives_nothing() -> None:
    assert ClipBuffer(capacity=1).take(0.01) is None


def test_take_wakes_up_when_a_frame_comes() -> None:
    buffer = ClipBuffer(capacity=1)
    timer = threading.Timer(0.05, buffer.put, [frame(1)])
    timer.start()
    item = buffer.take(timeout=30)
    timer.join()
    assert item is not None


@pytest.mark.parametrize(("drop", "kept"), [("oldest", [66, 99]), ("newest", [0, 33])])
def test_full_queue_drops_by_policy(drop: str, kept: list[int]) -> None:
    buffer = ClipBuffer(capacity=2, drop=drop)
    for t in (0, 33, 66, 99):
        buffer.put(frame(t))
    counts = buffer.counts()
    assert counts.dropped[Drop.QUEUE_FULL] == 2
    assert (counts.received, counts.waiting) == (4, 2)
    assert taken(buffer) == kept


def test_duplicates_and_late_frames_are_dropped_and_counted() -> None:
    buffer = ClipBuffer(capacity=10, jump_back=0.2)
    for t in (1000, 1033, 1033, 900, 1066):
        buffer.put(frame(t))
    assert taken(buffer) == [1000, 1033, 1066]
    assert buffer.counts().dropped[Drop.DUPLICATE] == 1
    assert buffer.counts().dropped[Drop.OUT_OF_ORDER] == 1
    assert buffer.counts().streams == 1


def test_jump_back_in_time_begins_a_new_stream() -> None:
    buffer = ClipBuffer(capacity=10, jump_back=0.2)
    for t in (1000, 1033, 500, 533):
        buffer.put(frame(t))
    reasons = [buffer.take(0).new_stream for _ in range(4)]  # type: ignore[union-attr]
    assert reasons == ["first frame", "", "time jumped back by 0.533 s", ""]
    assert buffer.counts().streams == 2


def test_another_size_begins_a_new_stream() -> None:
    buffer = ClipBuffer(capacity=10)
    buffer.put(frame(0, (4, 6)))
    buffer.put(frame(33, (8, 6)))
    buffer.take(0)
    assert buffer.take(0).new_stream == "image size changed from 6x4 to 6x8"  # type: ignore[union-attr]


@pytest.mark.parametrize("drop", ["oldest", "newest"])
def test_a_streams_beginning_survives_the_drop_of_its_frame(drop: str) -> None:
    buffer = ClipBuffer(capacity=2, drop=drop)
    for t in (5000, 5033, 1000, 1033, 1066):
        buffer.put(frame(t))
    if drop == "newest":  # the old stream kept the queue; the new one begins when there is room
        assert taken(buffer) == [5000, 5033]
        buffer.put(frame(1099))
    assert buffer.take(0).new_stream.startswith("time jumped back")  # type: ignore[union-attr]
    assert buffer.counts().streams == 2


def test_thinning_keeps_the_rate() -> None:
    buffer = ClipBuffer(capacity=100, max_rate=10)
    for t in range(0, 1000, 33):
        buffer.put(frame(t))
    kept = taken(buffer)
    assert np.diff(kept).min() >= 90
    assert len(kept) == 11
    assert buffer.counts().dropped[Drop.RATE] == 31 - 11


def test_thinning_lets_a_jittering_camera_of_that_rate_through() -> None:
    buffer = ClipBuffer(capacity=100, max_rate=30)
    for t in (0, 34, 66, 101, 133):
        buffer.put(frame(t))
    assert buffer.counts().dropped[Drop.RATE] == 0


def test_restart_discards_and_names_the_reason() -> None:
    buffer = ClipBuffer(capacity=10)
    buffer.put(frame(0))
    buffer.restart("reset was called")
    assert buffer.counts().dropped[Drop.DISCARDED] == 1
    assert buffer.newest_stamp is None
    buffer.put(frame(0))
    assert buffer.take(0).new_stream == "reset was called"  # type: ignore[union-attr]


def test_frames_lost_elsewhere_are_counted_too() -> None:
    buffer = ClipBuffer(capacity=10)
    buffer.count_drop(Drop.BAD_IMAGE)
    buffer.put(frame(0))
    buffer.count_drop(Drop.REFUSED, received=False)
    counts = buffer.counts()
    assert counts.received == 2
    assert counts.dropped[Drop.BAD_IMAGE] == counts.dropped[Drop.REFUSED] == 1
