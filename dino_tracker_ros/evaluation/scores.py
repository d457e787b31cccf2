"""Scores of point tracks, each with its 95 % interval, from what was counted of each track.

Every score is a formula on sums over tracks. Of one clip the tracks are resampled for the interval
(Efron's percentile bootstrap); of several clips a score is the mean over those that have it, as
TAP-Vid pools (Doersch et al. 2022), and the tracks are resampled within each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dino_tracker_ros.evaluation.metrics import (
    BADJA_DISTANCE,
    BADJA_SIZE,
    CONFIDENCE_BINS,
    RIGHT_DISTANCE,
    TAP_VID_THRESHOLDS,
    Floats,
    Ints,
    Mode,
    confidence_sums,
    distances,
    jaccard_counts,
    jitter_sums,
    longest_occlusions,
    near_counts,
    near_mask_counts,
    re_found_counts,
    scored_frames,
    survived_counts,
    switch_counts,
)
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.errors import TrackerError
from dino_tracker_ros.tracking.tracks import Tracks

OCCLUSION_BINS = {"0": (0, 0), "1-4": (1, 4), "5-15": (5, 15), "16+": (16, None)}  # frames
INTERVAL = (2.5, 97.5)  # percent

_Sums = NDArray[np.int64] | NDArray[np.float64]


class ScoreError(TrackerError):
    """Tracks and ground truth are not about the same points, frames or images."""


@dataclass(frozen=True)
class Counts:
    """What was counted of each of a clip's N tracks; None where the ground truth cannot say.

    Attributes:
        frames: [N], that count.
        visible: [N], of those, in which the true point is seen.
        near: [N, 5], visible and placed within each of TAP-Vid's thresholds.
        near_mask: [N], visible and within BADJA's 0.2·√(mask area); needs masks.
        near_3px: [N], visible and within BADJA's 3 px; for position labels without occlusion.
        said_visible: [N], visible and said so, wherever they are placed.
        switches: [N], jumps onto another's point.
        still_windows, still_squares: [N], windows in which the point is still, and the sum of
            their mean squared jitter, px².

    The rest needs occlusion labels:
        hits, false_claims: [N, 5], for the Jaccard index at each threshold.
        right_flags: [N], frames with the right occlusion flag.
        survived: [N], frames before the track is lost.
        appearances, found: [N], re-appearances after an occlusion, and those found.
        bin_frames, bin_confidence, bin_right: [N, 10], by bins of confidence.
        longest_occlusion: [N], frames.
    """

    frames: Ints
    visible: Ints
    near: Ints
    switches: Ints
    still_windows: Ints
    still_squares: Floats
    near_mask: Ints | None = None
    near_3px: Ints | None = None
    said_visible: Ints | None = None
    hits: Ints | None = None
    false_claims: Ints | None = None
    right_flags: Ints | None = None
    survived: Ints | None = None
    appearances: Ints | None = None
    found: Ints | None = None
    bin_frames: Ints | None = None
    bin_confidence: Floats | None = None
    bin_right: Ints | None = None
    longest_occlusion: Ints | None = None


@dataclass(frozen=True)
class Metric:
    """One score: how to read it, and how to compute it.

    Attributes:
        unit: "%" for shares (values in 0..1), "px", or "" for a plain number.
        formula: from sums of counts (leading axis [K]) to K values, NaN where nothing was
            counted; None where the ground truth does not support it.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    description: str
    formula: Callable[[Counts], Floats | None] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Score:
    """A value (shares in 0..1), its 95 % interval, and the number of tracks that it rests on."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class CalibrationBin:
    """Frames said with a confidence of `low`..`high`.

    Attributes:
        count: frames.
        mean_confidence: 0..1; NaN of no frames, as is the next.
        right: share of them in which the point is visible and within 8 px at 256×256.
    """

    low: float
    high: float
    count: int
    mean_confidence: float
    right: float


def _ratio(numerator: _Sums, denominator: _Sums) -> Floats:
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _optional_ratio(numerator: _Sums | None, denominator: _Sums | None) -> Floats | None:
    return None if numerator is None or denominator is None else _ratio(numerator, denominator)


def _delta(sums: Counts) -> Floats:
    """Shares [K, 5]."""
    return _ratio(sums.near, sums.visible[..., None])


def _jaccard(sums: Counts) -> Floats | None:
    """Shares [K, 5]."""
    if sums.hits is None or sums.false_claims is None:
        return None
    return _ratio(sums.hits, sums.visible[..., None] + sums.false_claims)


def _average_jaccard(sums: Counts) -> Floats | None:
    jaccard = _jaccard(sums)
    return None if jaccard is None else jaccard.mean(axis=-1)


def _calibration_error(sums: Counts) -> Floats | None:
    if sums.bin_confidence is None or sums.bin_right is None:
        return None
    return _ratio(np.abs(sums.bin_confidence - sums.bin_right).sum(axis=-1), sums.frames)


def _at_threshold(
    shares: Callable[[Counts], Floats | None], index: int
) -> Callable[[Counts], Floats | None]:
    def formula(sums: Counts) -> Floats | None:
        found = shares(sums)
        return None if found is None else found[..., index]

    return formula


HEADLINES = (
    Metric(
        "pck", "PCK", "%", True,
        "BADJA: labelled joints placed within 0.2·√(mask area)",
        lambda sums: _optional_ratio(sums.near_mask, sums.visible),
    ),
    Metric(
        "delta_3px", "δ_3px", "%", True,
        "BADJA: labelled joints placed within 3 px at 854×480",
        lambda sums: _optional_ratio(sums.near_3px, sums.visible),
    ),
    Metric(
        "delta_average", "δ_avg", "%", True,
        "TAP-Vid: visible points placed within 1, 2, 4, 8 and 16 px at 256×256, averaged",
        lambda sums: _delta(sums).mean(axis=-1),
    ),
    Metric(
        "occlusion_accuracy", "OA", "%", True,
        "TAP-Vid: frames whose occlusion flag is right",
        lambda sums: _optional_ratio(sums.right_flags, sums.frames),
    ),
    Metric(
        "average_jaccard", "AJ", "%", True,
        "TAP-Vid: points visible, said so and near enough, of those visible or said to be; "
        "averaged over the five thresholds",
        _average_jaccard,
    ),
    Metric(
        "said_visible", "said visible", "%", True,
        "visible points that are said to be, wherever they are placed: all that labels of visible "
        "points alone can tell of the flags",
        lambda sums: _optional_ratio(sums.said_visible, sums.visible),
    ),
    Metric(
        "survival", "survival", "%", True,
        "PointOdyssey: frames before the track is first over 50 px (at 256×256) from its visible "
        "point",
        lambda sums: _optional_ratio(sums.survived, sums.frames),
    ),
    Metric(
        "re_found", "re-found", "%", True,
        "re-appearances after 5 hidden frames or more that are claimed within 8 px (at 256×256) "
        "in one of the first 5 frames",
        lambda sums: _optional_ratio(sums.found, sums.appearances),
    ),
    Metric(
        "id_switches", "id switches", "", False,
        "CLEAR MOT's mismatches: jumps to within 8 px (at 256×256) of another track's point, per "
        "100 visible frames",
        lambda sums: _ratio(100 * sums.switches, sums.visible),
    ),
    Metric(
        "jitter", "jitter", "px", False,
        "RMS distance of the error from its mean over 5 frames in which the point is still "
        "(within 0.5 px) and the track on it (within 8 px at 256×256), in pixels of the image",
        lambda sums: np.sqrt(_ratio(sums.still_squares, sums.still_windows)),
    ),
    Metric(
        "calibration_error", "ECE", "%", False,
        "expected calibration error: how far confidence is from the share of points that are "
        "visible and within 8 px (at 256×256), over ten bins",
        _calibration_error,
    ),
)  # fmt: skip

METRICS = (
    *HEADLINES,
    *(
        Metric(
            f"delta_{threshold}", f"δ_{threshold}", "%", True,
            f"TAP-Vid: visible points placed within {threshold} px at 256×256",
            _at_threshold(_delta, index),
        )
        for index, threshold in enumerate(TAP_VID_THRESHOLDS)
    ),
    *(
        Metric(
            f"jaccard_{threshold}", f"J_{threshold}", "%", True,
            f"TAP-Vid: the Jaccard index of AJ within {threshold} px at 256×256",
            _at_threshold(_jaccard, index),
        )
        for index, threshold in enumerate(TAP_VID_THRESHOLDS)
    ),
)  # fmt: skip


def count(tracks: Tracks, truth: GroundTruth, mode: Mode = "strided") -> Counts:
    """Counts what tracks of a clip's own queries got right; a query's own frame never counts.

    Raises:
        ScoreError: not as many points or frames as the truth has, or images of another size.
    """
    if tracks.points.shape != truth.points.shape:
        raise ScoreError(
            f"tracks of {_shape(tracks)}, but known ones of {_shape(truth)}: score tracks of the "
            "clip's own queries over all its frames"
        )
    if (tracks.width, tracks.height) != (truth.width, truth.height):
        raise ScoreError(
            f"tracks in images of {tracks.width}x{tracks.height} px, but known ones in "
            f"{truth.width}x{truth.height}: scale one of them"
        )
    queries, size = truth.queries, (truth.width, truth.height)
    scored = truth.evaluate & scored_frames(queries, truth.points.shape[1], mode)
    known = truth.evaluate & ~truth.occluded
    visible = scored & known
    distance = distances(tracks.points, truth.points, *size)
    # Where hidden points are not labelled, saying that one is hidden is neither right nor wrong.
    claimed = ~tracks.occluded if truth.has_occlusion else np.ones_like(known)
    right = claimed & visible & (distance < RIGHT_DISTANCE)
    still_windows, still_squares = jitter_sums(tracks.points, truth.points, right)
    counts = Counts(
        frames=scored.sum(axis=1),
        visible=visible.sum(axis=1),
        near=near_counts(distance, visible),
        switches=switch_counts(
            tracks.points, truth.points, claimed, visible, known, queries, *size
        ),
        still_windows=still_windows,
        still_squares=still_squares,
        said_visible=(visible & ~tracks.occluded).sum(axis=1),
    )
    if truth.mask_areas is not None:
        near_mask = near_mask_counts(tracks.points, truth.points, visible, truth.mask_areas)
        counts = replace(counts, near_mask=near_mask)
    if not truth.has_occlusion:
        scaled = distances(tracks.points, truth.points, *size, BADJA_SIZE)
        return replace(counts, near_3px=(visible & (scaled < BADJA_DISTANCE)).sum(axis=1))
    hits, false_claims = jaccard_counts(distance, claimed, visible, scored)
    appearances, found = re_found_counts(right, visible, scored, queries)
    bins = confidence_sums(tracks.confidence, distance, visible, scored)
    return replace(
        counts,
        hits=hits,
        false_claims=false_claims,
        right_flags=(scored & (tracks.occluded == truth.occluded)).sum(axis=1),
        survived=survived_counts(distance, visible, scored, queries),
        appearances=appearances,
        found=found,
        bin_frames=bins[0],
        bin_confidence=bins[1],
        bin_right=bins[2],
        longest_occlusion=longest_occlusions(visible, scored),
    )


def scores(clips: Sequence[Counts], resamples: int = 1000, seed: int = 0) -> dict[str, Score]:
    """Scores of one clip, or of several together; without those that nothing supports.

    Args:
        clips: counts of each clip.
        resamples: how often the tracks are drawn anew for the intervals.
        seed: of those draws.

    Returns:
        By the names and in the order of METRICS.
    """
    random = np.random.default_rng(seed)
    sums = [_sums(clip, _weights(len(clip.frames), resamples, random)) for clip in clips]
    found = {}
    for metric in METRICS:
        values = [metric.formula(clip) for clip in sums]
        # A clip without a value, whose first row is NaN, has no part in the mean.
        supported = [value for value in values if value is not None and not np.isnan(value[0])]
        if not supported:
            continue
        pooled = _mean(np.array(supported))
        low, high = np.nanpercentile(pooled[1:], INTERVAL) if resamples else (np.nan, np.nan)
        tracks = [metric.formula(clip) for clip in clips]
        resting = sum(int(np.isfinite(each).sum()) for each in tracks if each is not None)
        found[metric.name] = Score(float(pooled[0]), float(low), float(high), resting)
    return found


def scores_by_occlusion(
    clips: Sequence[Counts], resamples: int = 1000, seed: int = 0
) -> dict[str, dict[str, Score]]:
    """`scores` of the tracks in each bin of OCCLUSION_BINS: by their longest occlusion, frames.

    Bins without tracks are absent, as are all where occlusion is not labelled.
    """
    found = {}
    for name, (low, high) in OCCLUSION_BINS.items():
        parts = []
        for clip in clips:
            if clip.longest_occlusion is not None:
                inside = clip.longest_occlusion >= low
                if high is not None:
                    inside &= clip.longest_occlusion <= high
                parts.append(select_tracks(clip, inside & (clip.frames > 0)))
        parts = [part for part in parts if len(part.frames)]
        if parts:
            found[name] = scores(parts, resamples, seed)
    return found


def calibration(clips: Sequence[Counts]) -> tuple[CalibrationBin, ...]:
    """Ten bins of confidence over all frames of the clips; none where no clip supports them."""
    arrays = [counts_to_arrays(clip) for clip in clips if clip.bin_frames is not None]
    if not arrays:
        return ()
    frames, confidence, right = (
        np.sum([each[name].sum(axis=0) for each in arrays], axis=0)
        for name in ("bin_frames", "bin_confidence", "bin_right")
    )
    mean, share = _ratio(confidence, frames), _ratio(right, frames)
    return tuple(
        CalibrationBin(k / CONFIDENCE_BINS, (k + 1) / CONFIDENCE_BINS, *values)
        for k, values in enumerate(zip(frames.tolist(), mean.tolist(), share.tolist()))
    )


def counts_to_arrays(counts: Counts) -> dict[str, NDArray[Any]]:
    """For numpy.savez: what is None is left out."""
    values = {item.name: getattr(counts, item.name) for item in fields(counts)}
    return {name: array for name, array in values.items() if array is not None}


def counts_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Counts:
    """What `counts_to_arrays` gave."""
    return Counts(**arrays)


def select_tracks(counts: Counts, tracks: NDArray[np.bool_]) -> Counts:
    """The counts of some tracks, bool [N]."""
    arrays = counts_to_arrays(counts)
    return counts_from_arrays({name: array[tracks] for name, array in arrays.items()})


def _weights(tracks: int, resamples: int, random: np.random.Generator) -> Floats:
    """How often each track is taken, [1 + resamples, tracks]; the first row takes each once."""
    once = np.ones((1, tracks))
    if not tracks:
        return np.repeat(once, 1 + resamples, axis=0)
    drawn = random.multinomial(tracks, np.full(tracks, 1 / tracks), size=resamples)
    return np.concatenate([once, drawn])


def _sums(counts: Counts, weights: Floats) -> Counts:
    """Sums over the tracks, [K, ...] for weights [K, N]."""
    arrays = counts_to_arrays(counts)
    return counts_from_arrays(
        {name: np.tensordot(weights, array, axes=1) for name, array in arrays.items()}
    )


def _mean(values: Floats) -> Floats:
    """Mean over the clips [C, K], where a resampled clip may lack a value."""
    there = np.isfinite(values)
    return _ratio(np.where(there, values, 0).sum(axis=0), there.sum(axis=0))


def _shape(tracks: Tracks | GroundTruth) -> str:
    return f"{tracks.points.shape[0]} points over {tracks.points.shape[1]} frames"
