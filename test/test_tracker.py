"""DinoTracker, the one door: what goes in, what comes out, and what it survives."""

from __future__ import annotations

import dataclasses
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from known_scene import frames_of, known_tracker, quick, tiny_tracker

from dino_tracker_ros.tracking import tracker as tracker_module
from dino_tracker_ros.tracking.clip import Frame, working_size
from dino_tracker_ros.tracking.clip_data import ClipData
from dino_tracker_ros.tracking.errors import (
    ClipError,
    DeviceError,
    FrameError,
    OptimizationError,
    QueryError,
    SettingError,
    TrackerError,
)
from dino_tracker_ros.tracking.optimizer import FitProgress, FitReport
from dino_tracker_ros.tracking.settings import with_values
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import EARLIER, Tracks
from dino_tracker_ros.tracking.weights import WeightsCache

HEIGHT, WIDTH = 60, 88
STILL = [[0.0, 0.0]] * 8
QUERIES = np.array([[0, 30, 20], [2, 60.5, 41.25], [3, 0, 0]], np.float32)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> DinoTracker:
    """A tracker of a scene that stands still, with four frames."""
    return filled(known_tracker(monkeypatch, STILL, quick()))


def filled(tracker: DinoTracker, count: int = 4) -> DinoTracker:
    for frame in frames_of(count, HEIGHT, WIDTH):
        tracker.observe(frame)
    return tracker


def textured(count: int, height: int, width: int, seed: int = 0) -> list[Frame]:
    """A random picture that moves by 1 px a frame."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 255, (height // 6 + 3, (width + count) // 6 + 3, 3), np.uint8)
    scene = np.kron(coarse, np.ones((6, 6, 1), np.uint8))
    return [
        Frame(np.ascontiguousarray(scene[:height, t : t + width]), 1000 + t) for t in range(count)
    ]


def same(a: Tracks, b: Tracks) -> bool:
    return all(
        np.array_equal(getattr(a, item.name), getattr(b, item.name))
        for item in dataclasses.fields(Tracks)
    )


# ---- what comes out ----


def test_tracks_are_what_they_promise(tracker: DinoTracker) -> None:
    given = QUERIES.copy()
    tracks = tracker.track(given)
    np.testing.assert_array_equal(given, QUERIES)
    assert (tracks.width, tracks.height) == (WIDTH, HEIGHT)
    for name, dtype, shape in (
        ("queries", np.float32, (3, 3)),
        ("points", np.float32, (3, 4, 2)),
        ("occluded", np.bool_, (3, 4)),
        ("confidence", np.float32, (3, 4)),
        ("stamps", np.int64, (4,)),
    ):
        array = getattr(tracks, name)
        assert (array.dtype, array.shape) == (dtype, shape), name
    assert tracks.stamps.tolist() == [0, 100_000_000, 200_000_000, 300_000_000]
    np.testing.assert_array_equal(tracks.queries, QUERIES)
    times = QUERIES[:, 0].astype(int)
    rows = np.arange(3)
    # The query's own frame is exact, and seen.
    np.testing.assert_array_equal(tracks.points[rows, times], QUERIES[:, 1:])
    assert not tracks.occluded[rows, times].any()
    assert (tracks.confidence[rows, times] > 0.99).all()
    assert ((tracks.confidence >= 0) & (tracks.confidence <= 1)).all()
    assert np.isfinite(tracks.points).all()


def test_flow_of_other_threads_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a GPU: whoever needs flow waits for it."""
    frames = textured(4, HEIGHT, WIDTH)
    inline, threaded = (tiny_tracker(monkeypatch, quick()) for _ in range(2))
    started = threading.Event()

    def slow(first: Any, second: Any) -> Any:
        assert started.wait(10)
        return inline._observer._both_ways(first, second)

    monkeypatch.setattr(threaded._observer, "_threads", ThreadPoolExecutor(2))
    monkeypatch.setattr(threaded._observer, "_both_ways", slow)
    for frame in frames:
        inline.observe(frame)
        threaded.observe(frame)  # does not wait
    threading.Timer(0.2, started.set).start()
    assert threaded.fit().losses == inline.fit().losses
    assert same(threaded.track(QUERIES), inline.track(QUERIES))


def test_flow_that_fails_in_a_thread_fails_the_fit(
    tracker: DinoTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise MemoryError("no memory for flow")

    monkeypatch.setattr(tracker._observer, "_threads", ThreadPoolExecutor(1))
    monkeypatch.setattr(tracker._observer, "_both_ways", broken)
    later = dataclasses.replace(frames_of(1, HEIGHT, WIDTH)[0], stamp=10**9)
    tracker.observe(later)
    with pytest.raises(MemoryError, match="no memory for flow"):
        tracker.fit()
    tracker.reset()
    filled(tracker, 1)
    assert len(tracker.track(QUERIES[:1]).points) == 1


def test_no_queries_give_no_tracks(tracker: DinoTracker) -> None:
    tracks = tracker.track(np.zeros((0, 3), np.float32))
    assert tracks.points.shape == (0, 4, 2)
    assert tracks.occluded.shape == tracks.confidence.shape == (0, 4)
    assert tracks.stamps.shape == (4,)


def test_tracking_needs_no_fit_and_repeats_itself(tracker: DinoTracker) -> None:
    assert same(tracker.track(QUERIES), tracker.track(QUERIES))
    alone = DinoTracker(tracker.settings, WeightsCache())
    alone.observe(frames_of(1, HEIGHT, WIDTH)[0])
    tracks = alone.track(QUERIES[:1])
    assert tracks.points.tolist() == [[[30.0, 20.0]]]


def test_queries_may_be_of_any_number_type(tracker: DinoTracker) -> None:
    whole = np.array([[1, 30, 20], [2, 60, 41]])
    tracks = tracker.track(whole)  # type: ignore[arg-type]
    assert tracks.queries.dtype == np.float32
    assert same(tracks, tracker.track(whole.astype(np.float64)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("height", "width", "longest", "stride"),
    [
        (16, 16, 0, 14),
        (16, 16, 64, 14),
        (21, 17, 0, 7),
        (96, 54, 0, 14),  # portrait
        (90, 160, 96, 14),  # 16:9, made smaller
        (75, 100, 0, 7),  # 4:3
        (77, 101, 90, 14),  # odd
        (40, 200, 0, 14),
    ],
)
def test_any_size_and_aspect(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, longest: int, stride: int
) -> None:
    settings = quick(
        clip__longest_side=longest, backbone__stride=stride, optimizer__iterations=3
    )
    tracker = tiny_tracker(monkeypatch, settings)
    for frame in textured(3, height, width):
        tracker.observe(frame)
    assert tracker.size == (height, width)
    report = tracker.fit()
    assert report.iterations == 3
    assert all(math.isfinite(value) for value in report.losses.values())
    xs, ys = (0, 0.4 * width, width - 1), (0, 0.6 * height, height - 1)
    queries = np.array([[t, x, y] for t in (0, 2) for x in xs for y in ys], np.float32)
    tracks = tracker.track(queries)
    assert (tracks.width, tracks.height) == (width, height)
    assert tracks.points.shape == (18, 3, 2)
    assert np.isfinite(tracks.points).all()
    # A token's width around the picture, in input pixels.
    margin = 14 * max(height, width) / (longest or max(height, width)) + 1
    assert (tracks.points >= -margin).all()
    assert (tracks.points <= np.array([width, height]) + margin).all()
    times = queries[:, 0].astype(int)
    np.testing.assert_array_equal(tracks.points[np.arange(18), times], queries[:, 1:])


def test_finding_and_placing_blocks_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for blocks in ((1, 0), (2, 0), (2, 1)):
        settings = quick(
            backbone__block=blocks[0],
            backbone__placing_block=blocks[1],
            registration__enabled=False,
        )
        tracker = tiny_tracker(monkeypatch, settings)
        for frame in textured(3, HEIGHT, WIDTH):
            tracker.observe(frame)
        report = tracker.fit()
        assert all(math.isfinite(value) for value in report.losses.values())
        found.append(tracker.track(QUERIES[:2]))
    assert not same(found[0], found[1])
    assert not same(found[1], found[2])


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("longest", [0, 60, 200])
def test_input_pixels_come_back_whatever_the_working_size(
    monkeypatch: pytest.MonkeyPatch, longest: int, scale: float
) -> None:
    """The scene stands still: every point is where it was, in pixels of the input."""
    settings = quick(
        clip__longest_side=longest, backbone__placing_scale=scale,
        head__radius=1.0, backbone__stride=7,
    )  # fmt: skip
    size = working_size(WIDTH, HEIGHT, longest)
    shape = (size.height, size.width)
    tracker = filled(known_tracker(monkeypatch, STILL, settings, size=shape))
    x, y = np.meshgrid([0, 13.5, 44, WIDTH - 1], [0, 31.25, HEIGHT - 1])
    queries = np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3).astype(np.float32)
    tracks = tracker.track(queries)
    error = np.linalg.norm(tracks.points - queries[:, None, 1:], axis=-1)
    token = 7 * WIDTH / (longest or WIDTH)
    assert error.max() <= token / math.sqrt(2) + 0.5


# ---- the clip ----


def test_frames_are_counted_and_forgotten(tracker: DinoTracker) -> None:
    assert (tracker.frame_count, tracker.size) == (4, (HEIGHT, WIDTH))
    before = tracker.track(QUERIES[1:])
    tracker.forget(1)
    assert tracker.frame_count == 3
    later = QUERIES[1:] - np.float32([1, 0, 0])
    after = tracker.track(later)
    np.testing.assert_array_equal(after.stamps, before.stamps[1:])
    np.testing.assert_allclose(after.points, before.points[:, 1:], atol=0.5)
    with pytest.raises(QueryError, match="query 1"):
        tracker.track(np.concatenate([later[:1], [[3, 5, 5]]]))
    tracker.forget(0)
    assert tracker.frame_count == 3
    tracker.forget(3)
    assert (tracker.frame_count, tracker.size) == (0, (HEIGHT, WIDTH))
    with pytest.raises(ClipError, match="empty"):
        tracker.track(QUERIES)


def test_a_clip_slides_on(monkeypatch: pytest.MonkeyPatch) -> None:
    motion = [[3.0 * t, 0.0] for t in range(8)]
    settings = quick(head__radius=1.0, backbone__stride=7)
    tracker = known_tracker(monkeypatch, motion, settings)
    frames = frames_of(8, HEIGHT, WIDTH)
    for frame in frames[:5]:
        tracker.observe(frame)
    tracker.forget(3)
    for frame in frames[5:]:
        tracker.observe(frame)
    tracks = tracker.track(np.array([[0, 30, 30]], np.float32))
    assert tracks.stamps.tolist() == [frame.stamp for frame in frames[3:]]
    truth = [[30 + 3 * t, 30] for t in range(5)]
    assert np.linalg.norm(tracks.points[0] - truth, axis=-1).max() < 5.5


def looked_at(monkeypatch: pytest.MonkeyPatch, tracker: DinoTracker) -> list[int]:
    """The numbers of the pictures that the backbone has been shown from now on."""
    seen: list[int] = []
    backbone = tracker._observer._backbone
    features = backbone.features

    def noted(images: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
        seen.append(int(images[0, 0, 0, 0]))
        return features(images, **options)

    monkeypatch.setattr(backbone, "features", noted)
    return seen


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("registered", [True, False])
def test_the_backbone_may_look_at_every_other_frame(
    monkeypatch: pytest.MonkeyPatch, registered: bool, scale: float
) -> None:
    settings = quick(
        head__radius=1.0, backbone__stride=7, backbone__every=2, backbone__placing_scale=scale,
        registration__enabled=registered,
    )  # fmt: skip
    motion = [[3.0 * t, 0.0] for t in range(9)]
    size = None if scale == 1 else (HEIGHT, WIDTH)
    tracker = known_tracker(monkeypatch, motion, settings, size=size)
    seen = looked_at(monkeypatch, tracker)
    for frame in frames_of(7, HEIGHT, WIDTH):
        tracker.observe(frame)
    assert sorted(set(seen)) == [0, 2, 4, 6]
    assert len(seen) == (4 if scale == 1 else 8)
    tracker.fit()
    queries = np.array([[0, 30, 30], [3, 40, 20]], np.float32)
    tracks = tracker.track(queries)
    assert sorted(set(seen)) == [0, 2, 3, 4, 6]  # one is asked on
    for points, (t, x, y) in zip(tracks.points, queries, strict=True):
        truth = [[x + 3 * (time - t), y] for time in range(7)]
        assert np.linalg.norm(points - truth, axis=-1).max() < 5.5
    assert not tracks.occluded.any()
    assert same(tracker.track(queries), tracks)
    # Every second frame that comes, whatever has been forgotten.
    tracker.forget(3)
    for frame in frames_of(9, HEIGHT, WIDTH)[7:]:
        tracker.observe(frame)
    assert sorted(set(seen)) == [0, 2, 3, 4, 6, 8]


@pytest.mark.parametrize(
    "asks", [{"hypotheses__enabled": False}, {"inference__occlusion": "anchors"}]
)
def test_what_asks_features_of_every_frame_gets_them(
    monkeypatch: pytest.MonkeyPatch, asks: dict[str, object]
) -> None:
    tracker = known_tracker(monkeypatch, STILL, quick(backbone__every=2, **asks))
    seen = looked_at(monkeypatch, tracker)
    assert filled(tracker).track(QUERIES).points.shape == (3, 4, 2)
    assert sorted(set(seen)) == [0, 1, 2, 3]


def test_anchors_have_features_of_frames_that_were_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = filled(known_tracker(monkeypatch, STILL, quick(backbone__every=2)))
    seen = looked_at(monkeypatch, tracker)
    tracker.settings = quick(backbone__every=2, inference__occlusion="anchors")
    tracker.track(QUERIES[:1])
    assert sorted(set(seen)) == [1, 3]


def test_a_fit_learns_from_two_frames_that_have_features_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = filled(known_tracker(monkeypatch, STILL, quick(backbone__every=4)), 3)
    seen = looked_at(monkeypatch, tracker)
    learnt_from: list[ClipData] = []
    optimize = tracker_module.optimize

    def noted(model: Any, data: ClipData, *rest: Any) -> FitReport:
        learnt_from.append(data)
        return optimize(model, data, *rest)

    monkeypatch.setattr(tracker_module, "optimize", noted)
    tracker.fit()
    assert sorted(set(seen)) == [1, 2] and len(learnt_from[0].features) == 3
    for frame in frames_of(5, HEIGHT, WIDTH)[3:]:
        tracker.observe(frame)
    tracker.fit()
    known = learnt_from[1]
    assert len(known.features) == len(known.pictures) == len(known.foreground) == 4
    assert known.trajectories.valid.shape[1] == 4  # frames 0, 1, 2 and 4


def slid_on(tracker: DinoTracker, keep: list[int] | None = None) -> DinoTracker:
    """Eight frames seen, the last four of them in the clip."""
    for frame in frames_of(8, HEIGHT, WIDTH):
        if tracker.frame_count == 5:
            tracker.track(np.array([[0, 30, 30], [1, 50, 20]], np.float32))
            tracker.forget(3, [0] if keep is None else keep)
        tracker.observe(frame)
    tracker.forget(1, tracker.keyframes)
    return tracker


@pytest.mark.parametrize("registered", [True, False])
@pytest.mark.parametrize("hypotheses", [True, False])
def test_points_go_on_being_asked_for_on_a_keyframe(
    monkeypatch: pytest.MonkeyPatch, registered: bool, hypotheses: bool
) -> None:
    settings = quick(
        head__radius=1.0, backbone__stride=7, registration__enabled=registered,
        hypotheses__enabled=hypotheses,
    )  # fmt: skip
    motion = [[3.0 * t, 0.0] for t in range(8)]
    tracker = slid_on(known_tracker(monkeypatch, motion, settings))
    assert tracker.keyframes == (0,)
    tracker.fit()
    tracks = tracker.track(np.array([[-1, 30, 30], [0, 42, 20]], np.float32))
    assert tracks.stamps.tolist() == [100_000_000 * t for t in range(4, 8)]
    assert tracks.query_indices.tolist() == [EARLIER, 0]
    truth = np.array([[[42, 30]], [[42, 20]]]) + np.arange(4)[:, None] * [3, 0]
    assert np.linalg.norm(tracks.points - truth, axis=-1).max() < 7  # a token
    np.testing.assert_array_equal(tracks.points[1, 0], [42, 20])
    if registered and hypotheses:
        assert tracks.deformed is not None and tracks.deformed.shape == (2, 4)
        assert tracks.deformed[1, 0] == 0.0  # the query itself
    else:
        assert tracks.deformed is None


def test_only_frames_that_are_kept_can_be_asked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = slid_on(known_tracker(monkeypatch, STILL, quick()), keep=[0, 200_000_000, 999])
    assert tracker.keyframes == (0, 200_000_000)
    with pytest.raises(QueryError, match=r"t=-3.*give a frame in -2\.\.3"):
        tracker.track(np.array([[-3, 30, 30]], np.float32))
    tracker.forget(4)
    assert tracker.keyframes == ()
    assert tracker.frame_count == 0


def test_what_was_known_before_a_gap_counts_the_same_in_every_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = slid_on(known_tracker(monkeypatch, STILL, quick()))
    queries = np.array([[-1, 30, 30], [2, 60, 40]], np.float32)
    first = tracker.track(queries)
    assert same(tracker.track(queries), first)
    alone = [tracker.track(queries[k : k + 1]).stamps.tolist() for k in range(2)]
    assert alone == [first.stamps.tolist()] * 2


def test_a_reset_drops_keyframes_and_what_was_known(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = slid_on(known_tracker(monkeypatch, STILL, quick()))
    tracker.reset()
    assert tracker.keyframes == ()
    fresh = filled(known_tracker(monkeypatch, STILL, quick()))
    assert same(filled(tracker).track(QUERIES), fresh.track(QUERIES))


@pytest.mark.parametrize("count", [-1, 5, 100])
def test_more_frames_than_there_are_cannot_be_forgotten(
    tracker: DinoTracker, count: int
) -> None:
    with pytest.raises(ClipError, match=rf"{count} frames: the clip holds 4"):
        tracker.forget(count)
    assert tracker.frame_count == 4


@pytest.mark.parametrize(
    ("frame", "named"),
    [
        (Frame(np.zeros((HEIGHT, WIDTH + 2, 3), np.uint8), 10**12), f"{WIDTH + 2}x{HEIGHT}"),
        (Frame(np.zeros((WIDTH, HEIGHT, 3), np.uint8), 10**12), f"{HEIGHT}x{WIDTH}"),
        (Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 300_000_000), "300000000 ns"),
        (Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), 5), "5 ns"),
    ],
)
def test_a_frame_that_does_not_belong_is_refused_and_nothing_lost(
    tracker: DinoTracker, frame: Frame, named: str
) -> None:
    before = tracker.track(QUERIES)
    with pytest.raises(FrameError, match="reset the tracker") as error:
        tracker.observe(frame)
    assert named in str(error.value)
    assert tracker.frame_count == 4
    assert same(tracker.track(QUERIES), before)


def test_after_a_reset_anything_may_come(tracker: DinoTracker) -> None:
    fresh = tracker.track(QUERIES)
    tracker.fit()
    fitted = tracker.track(QUERIES)
    assert not same(fitted, fresh)
    tracker.reset()
    assert (tracker.frame_count, tracker.size) == (0, None)
    with pytest.raises(ClipError, match="empty"):
        tracker.track(QUERIES)
    tracker.observe(Frame(np.zeros((40, 30, 3), np.uint8), -5))
    assert tracker.size == (40, 30)
    tracker.reset()
    assert same(filled(tracker).track(QUERIES), fresh), "a reset keeps something of the fit"


# ---- queries ----


@pytest.mark.parametrize(
    "bad",
    [
        (4, 10, 10), (-1, 10, 10), (0.5, 10, 10), (math.nan, 10, 10),
        (0, -0.6, 10), (0, WIDTH - 0.4, 10), (0, 10, -0.6), (0, 10, HEIGHT - 0.4),
        (0, math.nan, 10), (0, 10, math.inf),
    ],
)  # fmt: skip
def test_a_bad_query_is_named_and_nothing_lost(
    tracker: DinoTracker, bad: tuple[float, float, float]
) -> None:
    before = tracker.track(QUERIES)
    queries = np.array([[0, 5, 5], bad, [99, 99, 99]], np.float32)
    with pytest.raises(QueryError, match="query 1 is") as error:
        tracker.track(queries)
    message = str(error.value)
    for part in (f"t={bad[0]:g}", f"x={np.float32(bad[1]):g}", "0..3", f"{WIDTH}x{HEIGHT}"):
        assert part in message
    assert isinstance(error.value, TrackerError)
    assert same(tracker.track(QUERIES), before)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 4), (1, 3, 3), (0,)])
def test_queries_of_another_shape_are_refused(
    tracker: DinoTracker, shape: tuple[int, ...]
) -> None:
    with pytest.raises(QueryError, match=r"give \[N, 3\]") as error:
        tracker.track(np.zeros(shape, np.float32))
    assert str(shape) in str(error.value)


def test_a_query_on_the_outer_half_of_a_border_pixel_is_in_the_picture(
    tracker: DinoTracker,
) -> None:
    edges = np.array([[0, -0.5, -0.5], [3, WIDTH - 0.5, HEIGHT - 0.5]], np.float32)
    np.testing.assert_array_equal(tracker.track(edges).points[[0, 1], [0, 3]], edges[:, 1:])


# ---- the fit ----


@pytest.mark.parametrize("count", [0, 1])
def test_a_fit_needs_two_frames(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    tracker = filled(known_tracker(monkeypatch, STILL, quick()), count)
    with pytest.raises(ClipError, match=rf"holds {count} frames: observe at least 2"):
        tracker.fit()


def test_a_fit_is_warm_until_the_tracker_is_reset(tracker: DinoTracker) -> None:
    options = tracker.settings.optimizer
    assert tracker.fit().iterations == options.iterations == 12
    tracker.forget(2)
    assert tracker.fit().iterations == options.warm_iterations == 5
    tracker.reset()
    assert filled(tracker).fit().iterations == 12


def test_a_fit_reports_and_can_be_cancelled(tracker: DinoTracker) -> None:
    told: list[FitProgress] = []
    report = tracker.fit(progress=told.append)
    assert (report.stopped, told[-1].iteration) == ("iterations", 12)
    assert report.losses == told[-1].losses and "flow" in report.losses
    before = tracker.track(QUERIES)
    stopped = tracker.fit(cancelled=lambda: True)
    assert (stopped.stopped, stopped.iterations) == ("cancelled", 0)
    assert same(tracker.track(QUERIES), before)


def test_the_seed_decides_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def tracks(seed: int) -> Tracks:
        torch.manual_seed(seed * 7 + int(torch.randint(1000, ())))
        # Registered patches are where they are whatever the model has learnt.
        settings = quick(optimizer__seed=seed, registration__enabled=False)
        tracker = tiny_tracker(monkeypatch, settings)
        for frame in textured(3, HEIGHT, WIDTH):
            tracker.observe(frame)
        tracker.fit()
        return tracker.track(QUERIES[:2])

    assert same(tracks(0), tracks(0))
    assert not same(tracks(0), tracks(1))


def test_a_fit_leaves_the_frozen_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Any] = []
    tiny_tracker(monkeypatch, quick())
    load = tracker_module.load_backbone

    def keep(*args: Any, **options: Any) -> Any:
        built.append(load(*args, **options))
        return built[-1]

    monkeypatch.setattr(tracker_module, "load_backbone", keep)
    tracker = DinoTracker(quick(), WeightsCache())
    frames = textured(3, HEIGHT, WIDTH)
    for frame in frames:
        tracker.observe(frame)
    image = torch.from_numpy(frames[0].image.transpose(2, 0, 1).copy())[None]
    (before,) = built[0].features(image)
    tracker.fit()
    (after,) = built[0].features(image)
    assert torch.equal(before, after)
    assert not before.requires_grad


def captured_data(
    monkeypatch: pytest.MonkeyPatch, tracker: DinoTracker
) -> ClipData:
    """What the losses would learn from."""
    seen: list[ClipData] = []

    def capture(model: Any, data: ClipData, *_: Any, **__: Any) -> FitReport:
        seen.append(data)
        return FitReport(0, 0.0, "iterations", {})

    monkeypatch.setattr(tracker_module, "optimize", capture)
    tracker.fit()
    return seen[0]


def test_masks_are_the_foreground_where_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((2 * HEIGHT, 2 * WIDTH), bool)
    mask[30:90, 50:130] = True
    settings = quick(clip__longest_side=WIDTH, foreground__source="saliency")
    plain, masked = (known_tracker(monkeypatch, STILL, settings) for _ in range(2))
    for t, frame in enumerate(frames_of(3, 2 * HEIGHT, 2 * WIDTH)):
        plain.observe(frame)
        masked.observe(dataclasses.replace(frame, mask=mask if t != 1 else None))
    salient = captured_data(monkeypatch, plain)
    data = captured_data(monkeypatch, masked)
    centres = data.grid.centres().reshape(-1, 2).clamp(min=0)
    on_mask = [
        bool(mask[min(round(2 * y), 119), min(round(2 * x), 175)]) for x, y in centres.tolist()
    ]
    assert any(on_mask) and not all(on_mask)
    assert data.foreground.shape == (3, len(on_mask))
    assert data.foreground[0].tolist() == data.foreground[2].tolist() == on_mask
    assert torch.equal(data.foreground[1], salient.foreground[1])
    assert salient.foreground[0].tolist() != on_mask


def test_trajectories_know_whether_they_are_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, :40] = True
    tracker = known_tracker(monkeypatch, STILL, quick())
    for frame in frames_of(3, HEIGHT, WIDTH):
        tracker.observe(dataclasses.replace(frame, mask=mask))
    data = captured_data(monkeypatch, tracker)
    x = data.trajectories.points[:, 0, 0]
    assert data.trajectory_foreground[x < 40 - 7].all()
    assert not data.trajectory_foreground[x > 40 + 7].any()


def test_without_a_foreground_everything_is_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = filled(known_tracker(monkeypatch, STILL, quick(foreground__source="none")))
    assert captured_data(monkeypatch, tracker).foreground.all()


def test_tracks_use_the_share_of_what_was_learnt_that_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = quick(optimizer__iterations=40, registration__enabled=False)
    tracker = tiny_tracker(monkeypatch, settings)
    for frame in textured(4, HEIGHT, WIDTH):
        tracker.observe(frame)
    frozen = tracker.track(QUERIES).points
    tracker.fit()
    moved = {}
    for share in (0.0, 1.0):
        tracker.settings = with_values(tracker.settings, {"inference.residual_share": share})
        tracker.forget(0)  # features are refined anew
        moved[share] = np.abs(tracker.track(QUERIES).points - frozen).max()
    assert moved[0.0] == 0
    assert moved[1.0] > 0


def test_no_more_pairs_are_searched_than_the_iterations_look_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = quick(
        optimizer__iterations=9, optimizer__warm_iterations=2, optimizer__frames=4,
        best_buddies__pairs=15,
    )  # fmt: skip
    tracker = filled(known_tracker(monkeypatch, STILL, settings), 8)
    cold, warm = (captured_data(monkeypatch, tracker).buddies for _ in range(2))
    assert len(cold.pairs) == 15  # 9 iterations look at 18
    assert len(warm.pairs) == 2 * 2
    for buddies in (cold, warm):
        searched = {tuple(pair) for pair in buddies.pairs.tolist()}
        assert len(searched) == len(buddies.pairs)
        assert {tuple(pair) for pair in buddies.buddies.frames.tolist()} <= searched


@pytest.mark.parametrize("direct", ["none", "log", "all"])
def test_direct_flow_is_asked_for_as_often_as_set(
    monkeypatch: pytest.MonkeyPatch, direct: str
) -> None:
    tracker = known_tracker(monkeypatch, STILL, quick(trajectories__direct_flow=direct))
    flow = tracker_module.load_flow()  # type: ignore[call-arg]
    filled(tracker, 6)
    asked: list[tuple[int, int]] = []
    original = type(flow).flow

    def count(self: Any, sources: Any, targets: Any) -> torch.Tensor:
        asked.extend((s[0], t[0]) for s, t in zip(sources, targets))
        return original(self, sources, targets)

    monkeypatch.setattr(type(flow), "flow", count)
    data = captured_data(monkeypatch, tracker)
    assert len(data.trajectories.start) > 0
    # Nothing starts after frame 0 in a scene that stands still, so only frame 0 asks.
    pairs = {(min(pair), max(pair)) for pair in asked}
    wanted = {"none": set(), "log": {(0, 2), (0, 4)}, "all": {(0, t) for t in range(1, 6)}}
    assert pairs == wanted[direct]


def test_a_clip_whose_flow_is_nonsense_still_fits_and_tracks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracker = filled(known_tracker(monkeypatch, STILL, quick(), silent_flow=True))
    report = tracker.fit()
    assert "flow" not in report.losses
    assert report.iterations == 12
    assert np.isfinite(tracker.track(QUERIES).points).all()


def test_a_diverging_fit_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # Frame 0's features are so large that their norm is infinite.
    settings = quick()
    scale = [1e30, 1, 1, 1, 1]
    tracker = filled(known_tracker(monkeypatch, STILL, settings, scale=scale))
    with pytest.raises(OptimizationError, match=r"lower optimizer\.learning_rate"):
        tracker.fit()
    tracker.forget(1)
    later = QUERIES[1:] - np.float32([1, 0, 0])
    clean = filled(known_tracker(monkeypatch, STILL, settings))
    clean.forget(1)
    assert same(tracker.track(later), clean.track(later))
    # The fit that failed does not count as one.
    assert tracker.fit().iterations == settings.optimizer.iterations


def test_a_fit_that_raises_something_else_loses_nothing_either(tracker: DinoTracker) -> None:
    before = tracker.track(QUERIES)

    def fail(progress: FitProgress) -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError):
        tracker.fit(progress=fail)
    assert same(tracker.track(QUERIES), before)


# ---- building ----


def test_seconds_are_kept_by_stage(tracker: DinoTracker) -> None:
    tracker.fit()
    tracker.track(QUERIES)
    seconds = tracker.stage_seconds
    assert seconds.keys() >= {
        "features", "flow", "trajectories", "best_buddies", "fit", "track",
    }  # fmt: skip
    assert all(value > 0 for value in seconds.values())
    seconds["fit"] = -1.0
    assert tracker.stage_seconds["fit"] > 0
    spent = tracker.stage_seconds["track"]
    tracker.reset()
    filled(tracker).track(QUERIES)
    assert tracker.stage_seconds["track"] > spent


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cuda:x", "cuda:-1"])
def test_a_device_that_is_not_there_is_refused(
    monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    with pytest.raises(DeviceError, match="device is") as error:
        known_tracker(monkeypatch, STILL, quick(device=device))
    assert f"'{device}'" in str(error.value)


def test_a_block_the_model_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"backbone\.block is 9"):
        tiny_tracker(monkeypatch, quick(backbone__block=9))


def test_the_models_errors_are_the_trackers() -> None:
    for error in (ClipError, DeviceError, FrameError, OptimizationError, QueryError, SettingError):
        assert issubclass(error, TrackerError)
