"""Positions, occlusion and confidence, against the rules written as loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from known_scene import KnownBackbone, KnownFlow, frames_of, known_tracker, quick
from slow_sampling import slow_sample
from torch import Tensor

from dino_tracker_ros.tracking import inference as inference_module
from dino_tracker_ros.tracking import tracker as tracker_module
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.hypotheses import RIM
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks
from dino_tracker_ros.tracking.weights import WeightsCache

HEIGHT, WIDTH, FRAMES = 57, 84, 7
ANCHOR, VISIBLE = 0.97, 0.8
# The best token itself is the position: nothing of the head's weights is left.
PUBLISHED: dict[str, Any] = {
    "hypotheses__enabled": False,
    "registration__enabled": False,
    "inference__occlusion": "anchors",
    "head__radius": 1.0,
    "inference__anchor_cosine": ANCHOR,
    "inference__visible_cosine": VISIBLE,
}


pytestmark = pytest.mark.usefixtures("one_thread")


class NoiseBackbone(KnownBackbone):
    """Smooth noise of few channels that drifts, so that every cosine occurs."""

    channels = 4

    def __init__(self) -> None:
        super().__init__([[0.0, 0.0]] * FRAMES, stride=14)
        generator = torch.Generator().manual_seed(2)
        grid = self.grid(HEIGHT, WIDTH)
        noise = torch.randn(1, self.channels, grid.rows, grid.cols, generator=generator)
        maps = []
        for _ in range(FRAMES):
            noise = noise + 0.5 * torch.randn(noise.shape, generator=generator)
            maps.append(noise)
        self.maps = torch.cat(maps)

    def features(self, images: Tensor, **_: Any) -> tuple[Tensor, ...]:
        return (torch.stack([self.maps[int(image.flatten()[0])] for image in images]),)


def noise_tracker(monkeypatch: pytest.MonkeyPatch, **values: Any) -> DinoTracker:
    backbone, flow = NoiseBackbone(), KnownFlow([[0.0, 0.0]] * FRAMES, silent=True)
    monkeypatch.setattr(tracker_module, "load_backbone", lambda *_, **__: backbone)
    monkeypatch.setattr(tracker_module, "load_flow", lambda *_, **__: flow)
    tracker = DinoTracker(quick(**{**PUBLISHED, **values}), WeightsCache())
    for frame in frames_of(FRAMES, HEIGHT, WIDTH):
        tracker.observe(frame)
    return tracker


def random_queries(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    where = random.uniform(0, [WIDTH - 1, HEIGHT - 1], (count, 2))
    return np.column_stack([random.integers(FRAMES, size=count), where]).astype(np.float32)


# ---- the same, slowly ----


class Slow:
    """One point at a time on raw features."""

    def __init__(self, maps: Tensor) -> None:
        self.maps, self.grid = maps, TokenGrid(HEIGHT, WIDTH)
        self.centres = self.grid.centres().reshape(-1, 2).tolist()

    def feature(self, frame: int, x: float, y: float) -> Tensor:
        found = slow_sample(self.maps[frame].double(), x, y, self.grid)
        return found / found.norm()

    def find(self, wanted: Tensor, frame: int) -> tuple[float, float]:
        tokens = self.maps[frame].flatten(1).T.double()
        cosines = [float(wanted @ token / token.norm()) for token in tokens]
        return tuple(self.centres[max(range(len(cosines)), key=lambda k: cosines[k])])

    def track(
        self, t0: int, x: float, y: float
    ) -> tuple[list[tuple[float, float]], list[bool], list[str]]:
        wanted = self.feature(t0, x, y)
        points = [(x, y) if t == t0 else self.find(wanted, t) for t in range(FRAMES)]
        cosine = [float(wanted @ self.feature(t, *points[t])) for t in range(FRAMES)]
        anchors = [t for t in range(FRAMES) if cosine[t] >= ANCHOR]
        medians = []
        for t in range(FRAMES):
            own = self.feature(t, *points[t])
            # Round trips end on tokens, the anchors' own positions too but for the query's.
            apart = sorted(math.dist(self.find(own, a), points[a]) for a in anchors)
            medians.append(apart[(len(apart) - 1) // 2])
        limit = max(medians[a] for a in anchors)
        occluded = [medians[t] > limit or cosine[t] < VISIBLE for t in range(FRAMES)]
        why = [
            "anchor" if t in anchors else "low" if cosine[t] < VISIBLE
            else "voted away" if occluded[t] else "voted in"
            for t in range(FRAMES)
        ]  # fmt: skip
        return points, occluded, why

    def round_trips(
        self, t0: int, x: float, y: float
    ) -> tuple[list[tuple[float, float]], list[float], list[float]]:
        """Positions, how far from the query each is found back, and its cosine with the query."""
        wanted = self.feature(t0, x, y)
        points = [(x, y) if t == t0 else self.find(wanted, t) for t in range(FRAMES)]
        own = [self.feature(t, *points[t]) for t in range(FRAMES)]
        trips = [math.dist(self.find(found, t0), (x, y)) for found in own]
        return points, trips, [float(wanted @ found) for found in own]


def test_tracks_and_occlusion_are_the_slow_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = random_queries(60)
    tracks = noise_tracker(monkeypatch).track(queries)
    slow = Slow(NoiseBackbone().maps)
    reasons: list[str] = []
    for n, (t, x, y) in enumerate(queries.tolist()):
        points, occluded, why = slow.track(int(t), x, y)
        np.testing.assert_allclose(tracks.points[n], points, atol=1e-3)
        assert tracks.occluded[n].tolist() == occluded, (n, why)
        reasons += why
    # Every branch of the rule decided something.
    assert min(reasons.count(r) for r in ("anchor", "low", "voted away", "voted in")) >= 3


def test_round_trips_tell_occlusion_as_the_slow_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"inference__occlusion": "round_trip", "inference__round_trip": 1.5}
    queries = random_queries(120)
    tracks = noise_tracker(monkeypatch, **values).track(queries)
    slow = Slow(NoiseBackbone().maps)
    reasons: list[str] = []
    for n, (t0, x, y) in enumerate(queries.tolist()):
        points, trips, cosines = slow.round_trips(int(t0), x, y)
        for t, point in enumerate(points):
            if t == t0:
                assert not tracks.occluded[n, t] and tracks.confidence[n, t] == 1
                continue
            far, unlike = trips[t] > 1.5 * 14, cosines[t] < VISIBLE
            ends = zip(point, (WIDTH, HEIGHT), strict=True)
            beyond = any(not -RIM <= place <= side - 1 + RIM for place, side in ends)
            assert tracks.occluded[n, t] == (far or unlike or beyond), (n, t)
            assert tracks.occluded[n, t] == (tracks.confidence[n, t] < 0.5)
            kinds = {"far": far, "unlike": unlike, "beyond": beyond}
            true = [kind for kind, applies in kinds.items() if applies]
            reasons.append(true[0] if len(true) == 1 else str(len(true)))
    # Every reason was the only one somewhere.
    assert min(reasons.count(r) for r in ("0", "far", "unlike", "beyond")) > 1


def test_round_trips_go_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = torch.from_numpy(random_queries(30))
    clip = noise_tracker(monkeypatch)._refined_clip()
    frames, points = queries[:, 0].long(), queries[:, 1:]
    tracks = inference_module._matches(clip, frames, points)
    everywhere = torch.ones(tracks.shape[:2], dtype=torch.bool)
    some = torch.rand(tracks.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.5
    whole, half, none = (
        inference_module._round_trips(clip, frames, points, tracks, wanted, 7)
        for wanted in (everywhere, some, ~everywhere)
    )
    torch.testing.assert_close(half, whole * some)
    assert (whole[some] > 0).any() and (none == 0).all()


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("stride", [7, 14])
def test_a_point_on_the_border_is_in_the_picture(
    monkeypatch: pytest.MonkeyPatch, several: bool, stride: int
) -> None:
    settings = quick(head__radius=1.0, hypotheses__enabled=several, backbone__stride=stride)
    tracker = known_tracker(monkeypatch, [[0.0, 0.0]] * 4, settings)
    for frame in frames_of(4, HEIGHT, WIDTH):
        tracker.observe(frame)
    x, y = np.meshgrid([0, 40, WIDTH - 1], [0, 28, HEIGHT - 1])
    queries = np.stack([np.zeros(9), x.ravel(), y.ravel()], axis=-1).astype(np.float32)
    tracks = tracker.track(queries)
    assert not tracks.occluded.any(), tracks.points[tracks.occluded]


BOTH = pytest.mark.parametrize(
    "values",
    [
        {"hypotheses__enabled": False, "inference__occlusion": "anchors"},
        {"hypotheses__enabled": True, "inference__occlusion": "round_trip"},
    ],
    ids=["published", "ours"],
)


@BOTH
def test_every_point_is_tracked_for_itself(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    queries = random_queries(23, seed=1)
    whole = noise_tracker(monkeypatch, **values).track(queries)
    few = noise_tracker(monkeypatch, **values, inference__batch=5).track(queries)
    alone = noise_tracker(monkeypatch, **values).track(queries[4:5])
    for tracks, rows in ((few, slice(None)), (alone, slice(4, 5))):
        np.testing.assert_allclose(tracks.points, whole.points[rows], atol=1e-3)
        np.testing.assert_array_equal(tracks.occluded, whole.occluded[rows])
        np.testing.assert_allclose(tracks.confidence, whole.confidence[rows], atol=1e-4)


@BOTH
def test_confidence_is_a_share_and_agrees_with_the_flag(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    tracks = noise_tracker(monkeypatch, **values).track(random_queries(40))
    assert tracks.confidence.dtype == np.float32
    assert ((tracks.confidence >= 0) & (tracks.confidence <= 1)).all()
    assert tracks.occluded.any() and not tracks.occluded.all()
    assert (tracks.confidence[~tracks.occluded] >= 0.5).all()
    assert (tracks.confidence[tracks.occluded] < 0.5).all()


def test_thresholds_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = random_queries(40)

    def occluded(anchor: float, visible: float) -> float:
        tracker = noise_tracker(
            monkeypatch, inference__anchor_cosine=anchor, inference__visible_cosine=visible
        )
        return float(tracker.track(queries).occluded.mean())

    # All are anchors; then none but the exact ones.
    assert occluded(-1.0, -1.0) == 0
    assert occluded(0.999, 0.999) > 0.5


# ---- where the truth is known ----

# The scene goes to the right and down, and part of the way back.
MOTION = [[0.0, 0.0], [9.0, 4.0], [17.0, 6.0], [24.0, 3.0], [15.0, 1.0]]


def scene_queries(at: int) -> tuple[np.ndarray, np.ndarray]:
    """Points that stay in the picture, and where they are: [N, T, 2]."""
    x, y = np.meshgrid(np.arange(20.0, 90, 17), np.arange(15.0, 75, 13))
    grid = np.stack([x, y], axis=-1).reshape(-1, 2)
    motion = np.array(MOTION)
    truth = grid[:, None] + motion[None]
    queries = np.column_stack([np.full(len(grid), at), truth[:, at]]).astype(np.float32)
    return queries, truth


def scene_tracks(
    monkeypatch: pytest.MonkeyPatch, queries: np.ndarray, silent: bool = False, **values: Any
) -> Tracks:
    settings = quick(head__radius=1.0, **values)
    tracker = known_tracker(monkeypatch, MOTION, settings, silent_flow=silent)
    for frame in frames_of(len(MOTION), 85, 125):
        tracker.observe(frame)
    return tracker.track(queries)


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize("stride", [14, 7])
@BOTH
def test_points_are_followed_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch, at: int, stride: int, values: dict[str, Any]
) -> None:
    queries, truth = scene_queries(at)
    tracks = scene_tracks(monkeypatch, queries, backbone__stride=stride, **values)
    error = np.linalg.norm(tracks.points - truth, axis=-1)
    # The best token is at most half a diagonal of the grid away.
    assert error.max() <= stride / math.sqrt(2) + 0.5
    np.testing.assert_array_equal(tracks.points[:, at], queries[:, 1:])
    if stride == 7:
        assert not tracks.occluded.any()


@pytest.mark.parametrize("at", [0, 2, 4])
def test_flow_makes_tracks_more_precise(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    queries, truth = scene_queries(at)
    errors = {}
    for enabled in (False, True):
        tracks = scene_tracks(monkeypatch, queries, hypotheses__enabled=enabled)
        errors[enabled] = np.linalg.norm(tracks.points - truth, axis=-1).mean()
    assert errors[True] < 0.5 * errors[False]
    assert errors[True] < 2


def test_flow_that_closes_no_loop_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, truth = scene_queries(1)
    tracks = scene_tracks(monkeypatch, queries, silent=True, hypotheses__enabled=True)
    error = np.linalg.norm(tracks.points - truth, axis=-1)
    assert error.max() <= 14 / math.sqrt(2) + 0.5


@pytest.mark.parametrize("stride", [14, 7])
@pytest.mark.parametrize(("height", "width"), [(57, 84), (85, 46), (60, 60)])
@pytest.mark.parametrize("several", [False, True])
def test_tracks_reach_every_pixel(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, stride: int, several: bool
) -> None:
    """A point in the middle moves to each corner, along each border, and to places between."""
    start = np.array([width // 2, height // 2], float)
    xs, ys = [0, 1, width // 3, width - 2, width - 1], [0, 1, height // 3, height - 2, height - 1]
    targets = np.array([[x, y] for y in ys for x in xs], float)
    motion = np.concatenate([[[0.0, 0.0]], targets - start]).tolist()
    settings = quick(backbone__stride=stride, head__radius=1.0, hypotheses__enabled=several)
    tracker = known_tracker(monkeypatch, motion, settings, silent_flow=True)
    for frame in frames_of(len(motion), height, width):
        tracker.observe(frame)
    tracks = tracker.track(np.array([[0, *start]], np.float32))
    error = np.linalg.norm(tracks.points[0, 1:] - targets, axis=-1)
    assert error.max() <= stride / math.sqrt(2) + 0.5, targets[error.argmax()]


# ---- real pixels ----

DRIFT = np.array([2.6, -1.3])


def drifting(count: int, box: tuple[slice, slice] | None = None) -> list[Frame]:
    """A smooth texture that moves by DRIFT a frame; in the last one a flat box hides a part."""
    random = np.random.default_rng(0)
    direction, phase = random.normal(0, 0.25, (2, 40)), random.uniform(0, 6.3, 40)
    y, x = np.mgrid[:100, :140]
    frames = []
    for t in range(count):
        places = np.stack([x, y], axis=-1) - t * DRIFT
        height = 120 + 280 * np.sin(places @ direction + phase).mean(axis=-1)
        image = height.round().clip(0, 255).astype(np.uint8)
        if t == count - 1 and box is not None:
            image[box] = 90
        image[0, 0] = t  # tells the backbone and the flow which frame it is
        frames.append(Frame(np.repeat(image[..., None], 3, axis=-1), t))
    return frames


def drifting_tracks(
    monkeypatch: pytest.MonkeyPatch, frames: list[Frame], at: int, **values: Any
) -> tuple[Tracks, np.ndarray]:
    """Tracks by coarse features, flow that knows nothing, and registration; and the truth."""
    motion = (np.arange(len(frames))[:, None] * DRIFT).tolist()
    settings = quick(**values)
    tracker = known_tracker(monkeypatch, motion, settings, silent_flow=True)
    for frame in frames:
        tracker.observe(frame)
    x, y = np.meshgrid(np.arange(30.0, 116, 17), np.arange(30.0, 80, 16))
    here = np.stack([x.ravel(), y.ravel()], axis=-1)
    queries = np.column_stack([np.full(len(here), at), here]).astype(np.float32)
    truth = here[:, None] + (np.arange(len(frames)) - at)[:, None] * DRIFT
    return tracker.track(queries), truth


@pytest.mark.parametrize("at", [0, 3])
def test_registered_points_are_exact_and_sure(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    found = {}
    for enabled in (False, True):
        tracks, truth = drifting_tracks(
            monkeypatch, drifting(4), at, registration__enabled=enabled
        )
        found[enabled] = np.linalg.norm(tracks.points - truth, axis=-1)
    assert np.median(found[True]) < 0.1
    assert (found[True] < 0.3).mean() > 0.9
    assert np.median(found[False]) > 0.5
    exact = found[True] < 0.3
    assert (tracks.confidence[exact] >= 0.9).mean() > 0.95
    assert not tracks.occluded[exact].all(axis=-1).any()


def test_a_patch_that_neighbours_expect_and_nobody_finds_is_occluded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = (slice(20, 80), slice(55, 100))
    tracks, truth = drifting_tracks(monkeypatch, drifting(4, box), 0)
    last = truth[:, -1]
    far_inside = (last[:, 0] > 62) & (last[:, 0] < 92) & (last[:, 1] > 27) & (last[:, 1] < 73)
    outside = (last[:, 0] < 43) | (last[:, 0] > 112)
    assert far_inside.sum() >= 3 and outside.sum() >= 3
    assert tracks.occluded[far_inside, -1].all()
    assert not tracks.occluded[outside, -1].any()
    assert not tracks.occluded[far_inside, 1].any()


def test_what_may_be_elsewhere_is_less_sure_but_no_less_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {}
    for chance in (1.0, 0.25):
        monkeypatch.setattr(
            inference_module, "in_place", lambda off, *_, c=chance: torch.full_like(off, c)
        )
        # Nothing is alike enough to be found.
        seen[chance], _ = drifting_tracks(
            monkeypatch, drifting(4), 0, registration__likeness=1.0, registration__reward=0.0
        )
    sure, unsure = seen[1.0], seen[0.25]
    np.testing.assert_array_equal(sure.points, unsure.points)
    np.testing.assert_array_equal(sure.occluded, unsure.occluded)
    np.testing.assert_array_equal(sure.occluded, sure.confidence < 0.5)
    assert not sure.occluded[:, 1:].all()
    np.testing.assert_allclose(unsure.confidence[:, 1:], 0.25 * sure.confidence[:, 1:])
    assert (unsure.confidence[:, 0] == 1).all()


@pytest.mark.parametrize("told", [0.9, 0.1])
def test_what_is_seen_of_a_plain_wall_is_believed(
    monkeypatch: pytest.MonkeyPatch, told: float
) -> None:
    walls: list[Tensor] = []

    def looked_at(*given: Any) -> Tensor:
        points, led = given[-2:]
        walls.append(led)
        seen = torch.full_like(points[..., 0], told)
        seen[::2] = torch.nan
        return seen

    monkeypatch.setattr(inference_module, "plain_in_sight", looked_at)
    monkeypatch.setattr(inference_module, "in_place", lambda off, *_: torch.ones_like(off))
    monkeypatch.setattr(inference_module, "in_sight", lambda past, *_: 0.3 + 0 * past.off)
    # Nothing is alike enough to be found.
    tracks, _ = drifting_tracks(
        monkeypatch, drifting(4), 0, registration__likeness=1.0, registration__reward=0.0
    )
    np.testing.assert_allclose(tracks.confidence[1::2, 1:], told, atol=1e-6)
    np.testing.assert_array_equal(tracks.occluded[1::2, 1:], told < 0.5)
    assert tracks.occluded[::2, 1:].all()  # where nothing is told of it, history is believed
    assert walls[0].isnan().all()  # there is texture everywhere


EDGE = 60
AWAY = -3  # px along x that what is right of the edge moves by in a frame


class PartingFlow(KnownFlow):
    """Left of an edge that moves along, the scene's flow; right of it another one."""

    def flow(self, sources: Sequence[Any], targets: Sequence[Any]) -> Tensor:
        found = super().flow(sources, targets).clone()
        for flow, (source, _), (target, _) in zip(found, sources, targets, strict=True):
            behind = flow[:, :, round(EDGE + source * DRIFT[0]) :]
            behind[0], behind[1] = AWAY * (target - source), 0.0
        return found


@pytest.mark.parametrize("told_apart", [True, False])
def test_a_point_beside_an_outline_is_found_by_its_own_side_of_it(
    monkeypatch: pytest.MonkeyPatch, told_apart: bool
) -> None:
    moving, behind = drifting(5), drifting(1)[0].image[::-1, ::-1]
    for t, frame in enumerate(moving):
        edge = round(EDGE + t * DRIFT[0])
        frame.image[:, edge:] = np.roll(behind, AWAY * t, axis=1)[:, edge:]
    y = np.arange(30.0, 80, 7)
    queries = np.column_stack([np.zeros_like(y), np.full_like(y, EDGE - 3), y])
    truth = queries[:, None, 1:] + np.arange(len(moving))[:, None] * DRIFT
    if not told_apart:
        for told in ("moving_along", "own_support"):
            monkeypatch.setattr(
                inference_module, told, lambda *given: torch.ones(len(queries), len(given[-1]))
            )
    motion = (np.arange(len(moving))[:, None] * DRIFT).tolist()
    tracker = known_tracker(monkeypatch, motion, quick())
    tracker._observer._flow = PartingFlow(motion, silent=False)
    for frame in moving:
        tracker.observe(frame)
    tracks = tracker.track(queries.astype(np.float32))
    right = np.linalg.norm(tracks.points - truth, axis=-1) < 0.5
    sure = right & (tracks.confidence >= 0.9)
    assert (sure[:, -1].mean() > 0.8) == told_apart, sure.mean(axis=0)
