"""What is counted of each track against a known one: the sums that every score is made of.

N tracks over T frames. `scored` says which frames count for which track, `visible` where besides
the true point is seen, `claimed` where the tracker says that it sees the point. Distances are
float64 [N, T] and NaN where either point is unknown, which is never near.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Mode = Literal["strided", "first", "every"]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
_Scalar = TypeVar("_Scalar", bound=np.generic)

TAP_VID_THRESHOLDS = (1, 2, 4, 8, 16)  # px
TAP_VID_SIZE = (256, 256)  # px, (width, height) to which TAP-Vid scales coordinates
BADJA_SIZE = (854, 480)  # px, (width, height) at which delta_3px is defined
BADJA_DISTANCE = 3.0  # px
BADJA_FACTOR = 0.2  # of √(mask area)

RIGHT_DISTANCE = 8.0  # px at 256×256; nearer is on the point
LOST_DISTANCE = 50.0  # px at 256×256; farther is lost
HIDDEN_FRAMES = 5  # an occlusion of at least so many frames is one to recover from
FOUND_FRAMES = 5  # frames in which to recover
STILL_FRAMES = 5  # frames of a window in which a point is still
STILL_DISTANCE = 0.5  # px of the image; farthest that a still point gets from its mean
CONFIDENCE_BINS = 10  # of equal width, over 0..1


def scored_frames(queries: NDArray[np.float32], frame_count: int, mode: Mode) -> Flags:
    """Which frames of each track count.

    Args:
        queries: [N, 3], (t, x, y).
        frame_count: T.
        mode: "first" takes the frames after the query's, the others all but the query's.

    Returns:
        bool [N, T].
    """
    frames = np.arange(frame_count)[None, :]
    query_frames = _query_frames(queries)
    return frames > query_frames if mode == "first" else frames != query_frames


def distances(
    points: NDArray[np.floating],
    true_points: NDArray[np.floating],
    width: int,
    height: int,
    size: tuple[int, int] = TAP_VID_SIZE,
) -> Floats:
    """Distance [N, T] in px, once an image of width x height px is scaled to `size`.

    Args:
        points, true_points: [N, T, 2], (x, y) px.
    """
    scale = np.array([size[0] / width, size[1] / height])
    difference = (points.astype(np.float64) - true_points) * scale
    return np.hypot(difference[..., 0], difference[..., 1])


def near_counts(distance: Floats, visible: Flags) -> Ints:
    """Frames [N, 5] in which a visible point was placed nearer than each of TAP-Vid's thresholds.

    Doersch et al. 2022, sec. 3, position accuracy; whether it was said to be hidden is ignored.
    """
    return (_within(distance) & visible[..., None]).sum(axis=1)


def jaccard_counts(
    distance: Floats, claimed: Flags, visible: Flags, scored: Flags
) -> tuple[Ints, Ints]:
    """Hits and false claims [N, 5] at TAP-Vid's thresholds (Doersch et al. 2022, sec. 3).

    A hit is a visible point said to be visible and placed near enough; every other claim of
    visibility is false. Jaccard = hits / (visible points + false claims).
    """
    hits = _within(distance) & (visible & claimed)[..., None]
    false_claims = (scored & claimed)[..., None] & ~hits
    return hits.sum(axis=1), false_claims.sum(axis=1)


def near_mask_counts(
    points: NDArray[np.floating],
    true_points: NDArray[np.floating],
    visible: Flags,
    mask_areas: Ints,
) -> Ints:
    """BADJA's delta_seg: frames [N] in which a joint is nearer than 0.2·√(area of the mask).

    Biggs et al. 2018, sec. 5. In pixels of the image, [N, T, 2]; areas [T] in px².
    """
    distance = distances(points, true_points, 1, 1, (1, 1))
    return (visible & (distance < BADJA_FACTOR * np.sqrt(mask_areas))).sum(axis=1)


def survived_counts(
    distance: Floats, visible: Flags, scored: Flags, queries: NDArray[np.float32]
) -> Ints:
    """Scored frames [N] before a track is lost: first farther than 50 px from its visible point.

    Survival is their share of all scored frames (Zheng et al. 2023, PointOdyssey: frames until
    failure over the video's, failure being 50 px at 256×256). Where the query is not in the first
    frame and earlier frames count, time runs away from the query in both directions.
    """
    lost = visible & ~(distance <= LOST_DISTANCE)

    def one_way(scored: Flags, lost: Flags) -> Ints:
        return (scored & ~np.logical_or.accumulate(lost & scored, axis=1)).sum(axis=1)

    return _away_from_query(one_way, queries, scored, lost)


def switch_counts(
    points: NDArray[np.floating],
    true_points: NDArray[np.floating],
    claimed: Flags,
    visible: Flags,
    known: Flags,
    queries: NDArray[np.float32],
    width: int,
    height: int,
) -> Ints:
    """How often each track jumps onto another's point [N]: CLEAR MOT's mismatches.

    In a frame where its own point is visible and the track claims one, a track is on its own
    point if within 8 px (at 256×256), else on the nearest visible one within 8 px. A switch is
    counted when it comes onto another's than the one it was on last (Bernardin & Stiefelhagen
    2008, sec. 2); coming home is none, and to be on no point changes nothing. Points less than
    16 px apart cannot be told from drift and are no candidates for each other. Time runs away
    from the query, as for `survived_counts`.

    Args:
        visible: bool [N, T], scored frames in which the own point is seen.
        known: bool [N, T], all frames in which a true point is labelled as seen.
    """
    scale = np.array(TAP_VID_SIZE) / [width, height]
    placed, true = points * scale, true_points * scale
    own = np.arange(len(points))
    on = np.full(claimed.shape, -1)  # index of the point that each track is on, -1 for none
    judged = claimed & visible
    on_own = judged & (distances(points, true_points, width, height) < RIGHT_DISTANCE)
    on[on_own] = np.broadcast_to(own[:, None], on.shape)[on_own]
    for t in range(claimed.shape[1]):
        astray = np.flatnonzero(judged[:, t] & ~on_own[:, t])
        others = np.flatnonzero(known[:, t])
        if not len(astray) or not len(others):
            continue
        gap = placed[astray, None, t] - true[others, t]
        squared = np.square(gap[..., 0]) + np.square(gap[..., 1])
        rows, columns = np.nonzero(squared < RIGHT_DISTANCE**2)
        apart = np.linalg.norm(true[astray[rows], t] - true[others[columns], t], axis=-1)
        rows, columns = (each[apart >= 2 * RIGHT_DISTANCE] for each in (rows, columns))
        nearest_last = np.argsort(-squared[rows, columns])  # for the last one stays
        on[astray[rows[nearest_last]], t] = others[columns[nearest_last]]

    def one_way(scored: Flags, on: Ints) -> Ints:
        last, switches = own.copy(), np.zeros(len(own), np.int64)
        for t in range(on.shape[1]):
            now = np.where(scored[:, t] & (on[:, t] >= 0), on[:, t], last)
            switches += (now != last) & (now != own)
            last = now
        return switches

    return _away_from_query(one_way, queries, visible, on)


def re_found_counts(
    right: Flags, visible: Flags, scored: Flags, queries: NDArray[np.float32]
) -> tuple[Ints, Ints]:
    """Re-appearances [N] after at least 5 hidden frames, and how many of them were found.

    Found is a point on which the track is right in one of its first 5 frames. Time runs away from
    the query, as for `survived_counts`; a frame that is not scored ends an occlusion without a
    verdict.

    Args:
        right: bool [N, T], claimed, visible and placed within 8 px (at 256×256).
    """

    def one_way(scored: Flags, visible: Flags, right: Flags) -> Ints:
        counts = np.zeros((2, len(scored)), np.int64)
        hidden = np.zeros(len(scored), np.int64)
        for t in range(scored.shape[1]):
            back = scored[:, t] & visible[:, t] & (hidden >= HIDDEN_FRAMES)
            until = t + FOUND_FRAMES
            counts += back, back & (right & scored)[:, t:until].any(axis=1)
            hidden = np.where(scored[:, t] & ~visible[:, t], hidden + 1, 0)
        return counts

    appearances, found = _away_from_query(one_way, queries, scored, visible, right)
    return appearances, found


def jitter_sums(
    points: NDArray[np.floating], true_points: NDArray[np.floating], right: Flags
) -> tuple[Ints, Floats]:
    """Windows [N] in which a point is still, and the sum [N] of their mean squared jitter, px².

    A window is 5 frames in which the point stays within 0.5 px of its mean and the track is right
    throughout: a lost track is not one that trembles. Its jitter is the distance of the error
    (placed - true) from its mean over the window, so that a constant error is none.

    Args:
        points, true_points: [N, T, 2], (x, y) in pixels of the image.
        right: bool [N, T], claimed, visible and placed within 8 px (at 256×256).
    """
    if points.shape[1] < STILL_FRAMES:
        return np.zeros(len(points), np.int64), np.zeros(len(points))
    true = np.where(right[..., None], true_points, 0).astype(np.float64)
    error = np.where(right[..., None], points, 0) - true
    still = _windows(right).all(axis=-1)
    still &= _squared_spread(true).max(axis=-1) < STILL_DISTANCE**2
    squares = np.where(still, _squared_spread(error).mean(axis=-1), 0)
    return still.sum(axis=1), squares.sum(axis=1)


def confidence_sums(
    confidence: NDArray[np.floating], distance: Floats, visible: Flags, scored: Flags
) -> tuple[Ints, Floats, Ints]:
    """Ten bins of confidence, [N, 10] each: frames, sum of confidence, frames that were right.

    Right is a visible point placed within 8 px (at 256×256), which is what confidence promises.
    An unknown confidence is 0.
    """
    given = np.clip(np.nan_to_num(confidence.astype(np.float64), nan=0.0), 0, 1)
    index = np.minimum((given * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)
    inside = scored[..., None] & (index[..., None] == np.arange(CONFIDENCE_BINS))
    right = visible & (distance < RIGHT_DISTANCE)
    return (
        inside.sum(axis=1),
        (inside * given[..., None]).sum(axis=1),
        (inside & right[..., None]).sum(axis=1),
    )


def longest_occlusions(visible: Flags, scored: Flags) -> Ints:
    """Frames [N] of the longest unbroken occlusion among those that count."""
    longest, hidden = np.zeros((2, len(scored)), np.int64)
    for t in range(scored.shape[1]):
        hidden = np.where(scored[:, t] & ~visible[:, t], hidden + 1, 0)
        longest = np.maximum(longest, hidden)
    return longest


def _within(distance: Floats) -> Flags:
    return distance[..., None] < np.array(TAP_VID_THRESHOLDS)


def _query_frames(queries: NDArray[np.float32]) -> Ints:
    return np.round(queries[:, :1]).astype(np.int64)


def _away_from_query(
    one_way: Callable[..., Ints],
    queries: NDArray[np.float32],
    scored: Flags,
    *values: NDArray[np.generic],
) -> Ints:
    """Sum of what `one_way` counts in the frames after the query, and in those before, reversed.

    `one_way` takes the frames that count and the values, [N, T] each, in the order of time.
    """
    frames = np.arange(scored.shape[1])[None, :]
    after = scored & (frames > _query_frames(queries))
    before = scored & (frames < _query_frames(queries))
    reversed_values = [value[:, ::-1] for value in values]
    return one_way(after, *values) + one_way(before[:, ::-1], *reversed_values)


def _windows(values: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """[N, T, ...] to [N, T - 4, ..., 5]."""
    return np.lib.stride_tricks.sliding_window_view(values, STILL_FRAMES, axis=1)


def _squared_spread(points: Floats) -> Floats:
    """Squared distance [N, T - 4, 5] of points [N, T, 2] from the mean of each window."""
    windows = _windows(points)
    return np.square(windows - windows.mean(axis=-1, keepdims=True)).sum(axis=2)
