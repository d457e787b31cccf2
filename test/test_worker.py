"""The worker's thread: clips, overlap, identities, partial clips, and every way to fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from tracker_double import (
    DIVERGES,
    NO_MEMORY,
    REFUSED,
    SLOW,
    VELOCITY,
    OutOfMemoryError,
    TrackerDouble,
)

from dino_tracker_ros.ros.clip_buffer import CameraFrame, ClipBuffer, Drop
from dino_tracker_ros.ros.worker import (
    ClipResult,
    Worker,
    WorkerSettings,
    describe_error,
    is_out_of_memory,
)
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.errors import WeightsError

SETTINGS = WorkerSettings(
    length=6,
    overlap=2,
    keyframes=2,
    grid_spacing=0,
    mask_spacing=8,
    maximum=100,
    patience=2,
    flush_after=0.0,
    minimum_frames=2,
)
WIDTH, HEIGHT = 64, 48
PATIENCE = 30.0  # seconds after which a test gives up; none waits that long


class Bench:
    """A worker with a double inside, and everything it said."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.tracker = TrackerDouble()
        self.clips: list[ClipResult] = []
        self.errors: list[str] = []
        self.released = 0
        self.buffer = ClipBuffer(capacity=100)
        self.worker = Worker(
            lambda: self.tracker,
            self._release,
            self.buffer,
            settings,
            self.clips.append,
            self.errors.append,
        )

    def _release(self) -> None:
        self.released += 1

    def run(self) -> None:
        self.worker.start()
        self.worker.activate()

    def put(
        self,
        numbers: range,
        colour: tuple[int, int, int] = (0, 0, 0),
        depth: np.ndarray | None = None,
        size: tuple[int, int] = (HEIGHT, WIDTH),
    ) -> None:
        for number in numbers:
            image = np.full((*size, 3), colour, np.uint8)
            self.buffer.put(CameraFrame(Frame(image, stamp_of(number)), "camera", depth))

    def wait(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, f"gave up; errors: {self.errors}, {self.worker.status()}"
            time.sleep(0.005)

    def wait_for_clips(self, count: int) -> None:
        self.wait(lambda: len(self.clips) >= count and self.worker.status().stage == "idle")


def stamp_of(number: int) -> int:
    return 1_000_000_000 + number * 33_000_000


def asked(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float32)


@pytest.fixture
def benches() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**changes: object) -> Bench:
        made.append(Bench(replace(SETTINGS, **changes)))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for bench in made:
        assert bench.worker.stop()


def test_a_full_clip_is_fitted_tracked_and_its_overlap_kept(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(1), asked((10, 10)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    clip = bench.clips[0]
    assert (clip.clip_id, clip.frame_id, clip.depth) == (0, "camera", None)
    assert clip.ids.tolist() == [0]
    assert clip.tracks.stamps.tolist() == [stamp_of(n) for n in range(6)]
    np.testing.assert_allclose(clip.tracks.points[0, 5], asked((10, 10))[0] + 4 * VELOCITY)
    assert bench.tracker.frame_count == 2
    status = bench.worker.status()
    assert (status.clips, status.frames_processed, status.tracks) == (1, 6, 1)
    assert (status.clip_frames, status.clip_pending) == (2, 0)
    assert status.fit.stopped == "iterations"
    assert status.fit.losses == {"flow": 0.25}
    assert status.stage_seconds["fit"] == 1.0
    assert not bench.errors


def test_ids_and_ways_go_on_over_overlapping_clips(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10), (20, 5)))
    bench.run()
    bench.put(range(14))
    bench.wait_for_clips(3)
    for clip in bench.clips:
        assert clip.ids.tolist() == [0, 1]
        numbers = (clip.tracks.stamps - stamp_of(0)) / 33_000_000
        expected = asked((10, 10), (20, 5))[:, None] + numbers[None, :, None] * VELOCITY
        np.testing.assert_allclose(clip.tracks.points, expected, rtol=1e-5)
    assert bench.clips[1].tracks.stamps[0] == stamp_of(4)


def test_points_are_asked_for_on_their_own_frame_as_long_as_it_is_kept(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(keyframes=1)
    bench.tracker.confidence = 0.6  # who is surely seen would be asked for anew
    for frame, place in ((0, (10, 10)), (0, (20, 5)), (7, (20, 20))):
        bench.worker.ask(stamp_of(frame), asked(place))
    bench.run()
    bench.put(range(18))
    bench.wait_for_clips(4)
    # Clips of frames 0-5, 4-9, 8-13, 12-17; one frame is kept, that of most points.
    assert [clip.tracks.queries[:2, 0].tolist() for clip in bench.clips] == [
        [0, 0], [-1, -1], [-1, -1], [-1, -1]
    ]  # fmt: skip
    assert all(clip.tracks.queries[0, 1:].tolist() == [10, 10] for clip in bench.clips)
    third = [clip.tracks.queries[2, 0] for clip in bench.clips[1:]]
    assert third[0] == 3  # frame 7 in the clip
    assert all(0 <= time < 2 for time in third[1:])  # in one that both clips share
    assert bench.tracker.keyframes == [stamp_of(0)]


def test_a_point_that_left_is_waited_for_as_long_as_its_frame_is_kept(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(patience=2)
    bench.tracker.confidence = 0.6
    bench.worker.ask(stamp_of(0), asked((WIDTH - 4, 10)))  # gone with frame 4
    bench.run()
    bench.put(range(14))
    bench.wait_for_clips(3)
    assert [clip.ids.tolist() for clip in bench.clips] == [[0], [0], [0]]
    assert bench.clips[2].tracks.occluded.all()
    bench.wait(lambda: bench.worker.status().points_alive == 0)
    assert bench.tracker.keyframes == []


def test_the_grid_is_filled_and_its_holes_refilled_with_new_ids(
    benches: Callable[..., Bench],
) -> None:
    bench = benches(grid_spacing=8)
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    assert bench.clips[0].ids.tolist() == list(range(8 * 6))
    assert (bench.clips[0].tracks.queries[:, 0] == 0).all()
    bench.put(range(6, 30))  # the scene moves on by 28 px: some leave, new ones come
    bench.wait_for_clips(7)
    ids = bench.clips[-1].ids
    assert len(set(ids.tolist())) == len(ids)
    assert ids.max() > 47
    status = bench.worker.status()
    assert status.points_retired > 0
    assert status.points_created == ids.max() + 1


def test_no_more_points_than_allowed(benches: Callable[..., Bench]) -> None:
    bench = benches(grid_spacing=8, maximum=10)
    bench.worker.ask(stamp_of(0), asked(*[(3, 3)] * 7))
    bench.worker.ask(stamp_of(0), asked(*[(3, 3)] * 4))
    assert "queries.maximum (10): raise it" in bench.errors[0]
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    assert len(bench.clips[0].ids) == 10
    assert bench.worker.status().queries_refused == 4


def test_a_query_for_a_later_frame_waits_for_it(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(8), asked((10, 10)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    assert len(bench.clips[0].ids) == 0
    assert bench.worker.status().queries_waiting == 1
    bench.put(range(6, 10))
    bench.wait_for_clips(2)
    assert bench.clips[1].tracks.queries.tolist() == [[4, 10, 10]]
    assert bench.worker.status().queries_waiting == 0


def test_a_query_without_a_stamp_is_for_the_newest_frame(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(0, asked((1, 1)))  # before any frame: the first one
    bench.run()
    bench.put(range(3))
    bench.worker.ask(0, asked((2, 2)))
    bench.put(range(3, 6))
    bench.wait_for_clips(1)
    assert bench.clips[0].tracks.queries.tolist() == [[0, 1, 1], [2, 2, 2]]


def test_a_query_between_two_frames_takes_the_nearer(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(2) + 5_000_000, asked((1, 1)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    assert bench.clips[0].tracks.queries.tolist() == [[2, 1, 1]]


def test_bad_queries_are_refused_and_the_good_ones_are_not_lost(
    benches: Callable[..., Bench],
) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10), (64, 3), (np.nan, 1), (20, 20)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    assert bench.clips[0].tracks.queries[:, 1:].tolist() == [[10, 10], [20, 20]]
    assert bench.errors == [
        "query point (64, 3) is outside the image of 64x48 pixels",
        "query point (nan, 1) is outside the image of 64x48 pixels",
    ]
    assert bench.worker.status().queries_refused == 2
    bench.worker.ask(stamp_of(0), asked((5, 5)))  # its frame is forgotten
    bench.put(range(6, 10))
    bench.wait_for_clips(2)
    assert bench.clips[1].ids.tolist() == [0, 1]
    assert "come too late: the clip begins at 1.132000000 s" in bench.errors[-1]


def test_queries_inside_a_mask(benches: Callable[..., Bench]) -> None:
    bench = benches(grid_spacing=8)
    bench.worker.ask_in_mask(stamp_of(0), np.zeros((10, 10), bool) | True)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:16, :16] = True
    bench.worker.ask_in_mask(stamp_of(0), mask)
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    assert bench.errors == ["query mask is 10x10 pixels: the image is 64x48"]
    assert len(bench.clips[0].ids) == 48  # 4 in the mask, the grid's holes are the rest


def test_depth_follows_the_points(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((60, 10), (4, 4)))
    depth = np.tile(np.arange(1, WIDTH + 1, dtype=np.float32), (HEIGHT, 1))
    bench.run()
    bench.put(range(3), depth=depth)
    bench.put(range(3, 4))  # a frame without depth
    bench.put(range(4, 6), depth=depth)
    bench.wait_for_clips(1)
    found = bench.clips[0].depth
    nan = np.nan
    np.testing.assert_array_equal(found, [[61, 62, 63, nan, nan, nan], [5, 6, 7, nan, 9, 10]])


def test_the_end_of_a_stream_is_tracked_too(benches: Callable[..., Bench]) -> None:
    bench = benches(flush_after=0.2)
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.run()
    bench.put(range(9))
    bench.wait_for_clips(2)
    assert bench.clips[1].tracks.stamps.tolist() == [stamp_of(n) for n in range(4, 9)]
    assert bench.clips[1].ids.tolist() == [0]
    bench.put(range(9, 13))  # and then the stream goes on
    bench.wait_for_clips(3)
    assert bench.clips[2].ids.tolist() == [0]
    assert bench.clips[2].tracks.stamps[-1] == stamp_of(12)


def test_too_few_frames_wait_for_a_flush(benches: Callable[..., Bench]) -> None:
    bench = benches(flush_after=0.05, minimum_frames=4)
    bench.run()
    bench.put(range(3))
    bench.wait(lambda: bench.worker.status().clip_pending == 3)
    time.sleep(0.3)
    assert not bench.clips
    bench.worker.flush()
    bench.wait_for_clips(1)
    assert len(bench.clips[0].tracks.stamps) == 3


def test_a_jump_back_tracks_the_rest_and_begins_anew(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(40), asked((10, 10)))
    bench.run()
    bench.put(range(40, 43))
    bench.put(range(6))
    bench.wait_for_clips(2)
    assert bench.clips[0].tracks.stamps[-1] == stamp_of(42)
    assert bench.clips[1].tracks.stamps.tolist() == [stamp_of(n) for n in range(6)]
    assert bench.clips[1].ids.tolist() == []
    assert bench.worker.status().points_retired == 1
    bench.worker.ask(stamp_of(6), asked((1, 1)))
    bench.put(range(6, 10))
    bench.wait_for_clips(3)
    assert bench.clips[2].ids.tolist() == [1]  # ids are not given twice


def test_another_image_size_begins_anew(benches: Callable[..., Bench]) -> None:
    bench = benches(grid_spacing=16)
    bench.run()
    bench.put(range(6))
    bench.put(range(6, 12), size=(32, 32))
    bench.wait_for_clips(2)
    assert (bench.clips[1].tracks.width, bench.clips[1].tracks.height) == (32, 32)
    assert not bench.errors


def test_a_refused_frame_is_counted_and_the_rest_tracked(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.run()
    bench.put(range(3))
    bench.put(range(3, 4), colour=REFUSED)
    bench.put(range(4, 7))
    bench.wait_for_clips(1)
    assert stamp_of(3) not in bench.clips[0].tracks.stamps
    assert bench.buffer.counts().dropped[Drop.REFUSED] == 1
    assert bench.errors == [f"frame {stamp_of(3)}: the frame is refused: send another"]


def test_out_of_memory_frees_frames_and_keeps_the_points(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    bench.put(range(6, 7), colour=NO_MEMORY)
    bench.put(range(7, 13))
    bench.wait_for_clips(2)
    assert bench.tracker.resets == 1
    assert bench.released == 1
    assert bench.clips[1].ids.tolist() == [0]
    assert bench.errors[0].startswith(f"frame {stamp_of(6)}: out of memory (CUDA out of memory.")
    assert "lower clip.length" in bench.errors[0]


def test_a_failed_optimization_is_told_and_the_clip_tracked(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.run()
    bench.put(range(6), colour=DIVERGES)
    bench.wait_for_clips(1)
    assert bench.errors == ["optimization: the loss is NaN at iteration 3: lower the learning rate"]
    assert bench.worker.status().last_clip_failed
    bench.put(range(6, 10))
    bench.wait_for_clips(2)
    bench.put(range(10, 14))
    bench.wait_for_clips(3)
    assert not bench.worker.status().last_clip_failed
    assert bench.clips[2].ids.tolist() == [0]


def test_a_failed_clip_leaves_a_gap_and_the_points_alive(
    benches: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)

    def fail(queries: np.ndarray) -> None:
        monkeypatch.undo()
        raise RuntimeError("cuDNN error\nwith a long tail")

    monkeypatch.setattr(bench.tracker, "track", fail)
    bench.put(range(6, 14))
    bench.wait_for_clips(2)
    assert [clip.clip_id for clip in bench.clips] == [0, 2]
    assert bench.clips[1].ids.tolist() == [0]
    assert bench.errors == ["clip 1: RuntimeError: cuDNN error"]
    assert bench.worker.status().clips_failed == 1


def test_what_fails_after_tracking_loses_no_point(benches: Callable[..., Bench]) -> None:
    bench = benches()
    published = bench.worker._on_clip

    def fail_once(clip: ClipResult) -> None:
        bench.worker._on_clip = published
        raise RuntimeError("cannot publish")

    bench.worker._on_clip = fail_once
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.run()
    bench.put(range(10))
    bench.wait_for_clips(1)
    assert bench.clips[0].ids.tolist() == [0]
    expected = asked((10, 10))[0] + 4 * VELOCITY
    np.testing.assert_allclose(bench.clips[0].tracks.points[0, 0], expected)


@pytest.mark.parametrize("command", ["restart", "deactivate"])
def test_a_running_optimization_is_cancelled(benches: Callable[..., Bench], command: str) -> None:
    bench = benches()
    bench.run()
    bench.put(range(6), colour=SLOW)
    bench.wait(lambda: bench.worker.status().fit.iteration > 0)
    assert bench.worker.status().stage == "fitting"
    if command == "restart":
        bench.worker.restart("reset was called")
    else:
        bench.worker.deactivate()
    bench.wait(lambda: bench.worker.status().stage == "idle" and bench.tracker.frame_count == 0)
    assert bench.worker.status().fit.iteration < 1000
    assert not bench.clips
    bench.worker.activate()
    bench.put(range(6))
    bench.wait_for_clips(1)


def test_stop_cancels_a_running_optimization(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.run()
    bench.put(range(6), colour=SLOW)
    bench.wait(lambda: bench.worker.status().fit.iteration > 0)
    assert bench.worker.stop()
    assert bench.released == 1
    assert not bench.clips


def test_inactive_workers_take_no_frames(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.start()
    bench.put(range(6))
    time.sleep(0.2)
    assert bench.buffer.counts().waiting == 6


def test_clear_forgets_points_but_not_frames(benches: Callable[..., Bench]) -> None:
    bench = benches()
    bench.worker.ask(stamp_of(0), asked((10, 10)))
    bench.worker.ask(stamp_of(8), asked((10, 10)))
    bench.run()
    bench.put(range(6))
    bench.wait_for_clips(1)
    bench.worker.clear_points()
    bench.wait(lambda: bench.worker.status().points_alive == 0)
    bench.put(range(6, 10))
    bench.wait_for_clips(2)
    assert bench.clips[1].ids.tolist() == []


def test_what_loading_raises_reaches_the_caller() -> None:
    def load() -> TrackerDouble:
        raise WeightsError("no weights: run dino-tracker weights")

    worker = Worker(load, lambda: None, ClipBuffer(1), SETTINGS, lambda clip: None, print)
    with pytest.raises(WeightsError, match="run dino-tracker weights"):
        worker.start()
    assert worker.stop()


def test_waiting_for_a_slow_load_can_end() -> None:
    def load() -> TrackerDouble:
        time.sleep(1)
        return TrackerDouble()

    worker = Worker(load, lambda: None, ClipBuffer(1), SETTINGS, lambda clip: None, print)
    with pytest.raises(InterruptedError):
        worker.start(keep_waiting=lambda: False)
    assert worker.stop()


def test_errors_are_one_line() -> None:
    assert describe_error(WeightsError("gone: fetch it")) == "gone: fetch it"
    assert describe_error(ValueError("bad\nthing")) == "ValueError: bad"
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError())
