"""Tracks of query points through the clip, with occlusion and confidence.

Tumanyan et al. 2024, sec. 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dino_tracker_ros.tracking.astray import in_place
from dino_tracker_ros.tracking.doubt import farthest_off, odds_against
from dino_tracker_ros.tracking.evidence import Evidence, FeatureMap, feature_map
from dino_tracker_ros.tracking.feature_frames import FeatureFrames
from dino_tracker_ros.tracking.head import TrackerHead
from dino_tracker_ros.tracking.hypotheses import RIM, Candidates, follow
from dino_tracker_ros.tracking.keyframes import Course, Recalled, joined, remember
from dino_tracker_ros.tracking.matching import lengths, predict, sample_tokens, unit_length
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.noise import with_noise
from dino_tracker_ros.tracking.persistence import History, history, in_sight
from dino_tracker_ros.tracking.plain import plain_in_sight
from dino_tracker_ros.tracking.pyramid import build_pyramid
from dino_tracker_ros.tracking.settings import InferenceSettings, Settings
from dino_tracker_ros.tracking.sightings import (
    look,
    query_patches,
    taken_by_tracks,
    with_carried,
    with_sightings,
)
from dino_tracker_ros.tracking.stiffness import stiffness
from dino_tracker_ros.tracking.support import moving_along
from dino_tracker_ros.tracking.surfaces import find_surfaces, own_support
from dino_tracker_ros.tracking.token_grid import TokenGrid
from dino_tracker_ros.tracking.trajectories import FlowPair, inside

COSINE_SCALE = 0.05
"""How much cosine takes the confidence from 1/2 to 3/4."""


@dataclass(frozen=True)
class RefinedClip:
    """The refined features of a clip and what finds points in them.

    Attributes:
        images: uint8 [T, 3, H, W].
        frames: which S of the T frames have features.
        tokens: float32 [S, C, rows * cols].
        length: of the tokens, [S, 1, rows * cols].
        grid: where the tokens lie.
        head: the fitted head.
        flows: T-1 pairs of flow between frames t and t+1.
        maps: the features that find points and those that place them, where several hypotheses
            are followed.
    """

    images: Tensor
    frames: FeatureFrames
    tokens: Tensor
    length: Tensor
    grid: TokenGrid
    head: TrackerHead
    flows: list[FlowPair]
    maps: tuple[FeatureMap, FeatureMap] | None


@dataclass(frozen=True)
class PointTracks:
    """Tracks in working pixels.

    Attributes:
        points: [N, T, 2].
        occluded: bool [N, T].
        confidence: [N, T].
        remembered: what a later clip goes on from; None without registration.
    """

    points: Tensor
    occluded: Tensor
    confidence: Tensor
    remembered: Recalled | None


@dataclass(frozen=True)
class _Pictures:
    """What registration says of N tracks in T frames.

    Attributes:
        found: bool [N, T], where the queries' patches were found.
        odds: [N, T], that what was found is something else.
        contrast: [N], of the patches, standard deviation of gray values.
        past: what happened since they were found.
        lead: [N, T], by how much features prefer the track to other places; 0 where it was found.
        plain: [N, T], how probably plain points are in sight; NaN where that is not known.
        remembered: what a later clip goes on from.
    """

    found: Tensor
    odds: Tensor
    contrast: Tensor
    past: History
    lead: Tensor
    plain: Tensor
    remembered: Recalled


@torch.no_grad()
def refine_clip(
    model: TrackerModel,
    images: Tensor,
    frames: FeatureFrames,
    pictures: Tensor,
    features: Tensor,
    grid: TokenGrid,
    flows: list[FlowPair],
    placing: Tensor | None,
    placing_grid: TokenGrid,
    settings: Settings,
) -> RefinedClip:
    """Refined features of every frame that has some.

    Args:
        images: uint8 [T, 3, H, W].
        frames: which S of the T frames have features.
        pictures: what Delta-DINO sees of these, see `TrackerModel.pictures`.
        features: frozen, [S, C, rows, cols].
        flows: between neighbouring frames, T-1 pairs.
        placing: frozen features of unit length that place points, [S, C', rows', cols'].
        placing_grid: where those lie.
        settings: how many frames at once, and what share of the residual.
    """
    batch, share = settings.optimizer.frames, settings.inference.residual_share
    parts = [
        model.refine(pictures[k : k + batch], features[k : k + batch], grid, share)
        for k in range(0, len(pictures), batch)
    ]
    tokens = torch.cat(parts)
    length = lengths(tokens)
    maps = None
    if placing is not None:
        maps = (
            feature_map(tokens / length, grid, model.precision),
            feature_map(placing.flatten(2), placing_grid, model.precision),
        )
    return RefinedClip(images, frames, tokens, length, grid, model.head, flows, maps)


@torch.no_grad()
def track(
    clip: RefinedClip, queries: Tensor, settings: Settings, recalled: Recalled | None = None
) -> PointTracks:
    """Tracks of query points through all frames, forward and backward.

    Args:
        queries: [N, 3], (t, x, y), working px.
        recalled: from clips before; None where no frame lies behind a gap.
    """
    step = settings.inference.batch
    parts = []
    for k in range(0, len(queries), step):
        some = slice(k, k + step)
        past = None if recalled is None else recalled.rows(some)
        parts.append(_track_some(clip, queries[some], settings, past))
    kept = [part.remembered for part in parts if part.remembered is not None]
    return PointTracks(
        torch.cat([part.points for part in parts]),
        torch.cat([part.occluded for part in parts]),
        torch.cat([part.confidence for part in parts]),
        joined(kept) if kept else None,
    )


def _track_some(
    clip: RefinedClip, queries: Tensor, settings: Settings, recalled: Recalled | None
) -> PointTracks:
    query_frame, query_point = queries[:, 0].long(), queries[:, 1:]
    rows = torch.arange(len(queries), device=queries.device)
    if clip.maps is None:
        points, pictures = _matches(clip, query_frame, query_point), None
    else:
        points, pictures = _paths(clip, *clip.maps, query_frame, query_point, settings, recalled)
    points[rows, query_frame] = query_point
    confidence, occluded = _visibility(
        clip, query_frame, query_point, points, pictures, settings, recalled
    )
    occluded[rows, query_frame] = False
    confidence[rows, query_frame] = 1.0
    remembered = None if pictures is None else pictures.remembered
    return PointTracks(points, occluded, confidence, remembered)


def _matches(clip: RefinedClip, query_frame: Tensor, query_point: Tensor) -> Tensor:
    """The published track: the head's answer in every frame, [N, T, 2]."""
    frames = range(len(clip.images))
    return torch.stack([_positions(clip, query_frame, query_point, t) for t in frames], dim=1)


def _paths(
    clip: RefinedClip,
    finding: FeatureMap,
    placing: FeatureMap,
    query_frame: Tensor,
    query_point: Tensor,
    settings: Settings,
    recalled: Recalled | None,
) -> tuple[Tensor, _Pictures | None]:
    """The cheapest paths through features, flow and registrations, [N, T, 2], and where the
    queries' patches were found on them."""
    options = settings.hypotheses
    evidence = Evidence(finding, placing, clip.frames, query_frame, query_point, options)
    candidates = [evidence.candidates(t) for t in range(len(clip.images))]

    def followed(places: list[Candidates]) -> Tensor:
        return follow(
            places, evidence.price, clip.flows, query_frame, query_point,
            placing.grid.spacing, settings.trajectories.loop_error, options, recalled,
        )  # fmt: skip

    if not settings.registration.enabled:
        return followed(candidates), None
    longest_side = settings.registration.longest_side
    pyramid = with_noise(build_pyramid(clip.images, longest_side), clip.flows)
    if recalled is not None:
        noise = torch.where(recalled.noise.isnan(), pyramid.noise, recalled.noise)
        pyramid = replace(pyramid, noise=noise)
    surfaces = find_surfaces(pyramid, clip.flows, query_frame, query_point, recalled)
    supports: dict[tuple[int, int], Tensor] = {}

    def support(level: int, offsets: Tensor) -> Tensor:
        loop_error = settings.trajectories.loop_error
        moves = moving_along(clip.flows, query_frame, query_point, loop_error, offsets)
        told = moves * own_support(surfaces, level, offsets)
        if recalled is not None and (level, len(offsets)) in recalled.support:
            earlier = recalled.support[level, len(offsets)]
            told = torch.where(earlier.isnan(), told, earlier)
        supports[level, len(offsets)] = told
        return told

    patches = query_patches(pyramid, query_frame, query_point, settings.registration, support)
    points, sightings = followed(with_carried(candidates, pyramid, surfaces.carried)), None
    for _ in range(settings.registration.rounds):
        sightings = look(
            pyramid, patches, points, surfaces.carried, sightings, settings.registration, recalled
        )
        points = followed(with_sightings(candidates, pyramid, sightings, settings.registration))
    if sightings is None:
        return points, None
    sightings = taken_by_tracks(sightings, pyramid, points)
    seen = sightings.registration
    off = farthest_off(points, clip.flows, query_frame, recalled)
    odds = odds_against(seen.error, sightings.confirmed, off)
    found, contrast = seen.found & (odds < 1), patches.whole[0].contrast[:, 0]
    past = history(pyramid, clip.flows, points, found, recalled)
    # Where it was found it has not drifted.
    placed = found & ~surfaces.led.isnan().any(dim=-1)
    led = torch.where(placed[..., None], points, surfaces.led)
    remembered = remember(
        Course(points, seen.affine, off, past.off, past.change, led, found.float()),
        supports, pyramid.noise, recalled,
    )  # fmt: skip
    lead = clip.frames.filled(evidence.lead(points, clip.frames.asked(~found)))
    walls = torch.where(surfaces.plain[:, None, None], surfaces.led, torch.nan)
    plain = plain_in_sight(surfaces.pyramid, clip.flows, query_frame, query_point, points, walls)
    return points, _Pictures(found, odds, contrast, past, lead, plain, remembered)


def _visibility(
    clip: RefinedClip,
    query_frame: Tensor,
    query_point: Tensor,
    points: Tensor,
    pictures: _Pictures | None,
    settings: Settings,
    recalled: Recalled | None,
) -> tuple[Tensor, Tensor]:
    """Confidence [N, T] and occluded bool [N, T]."""
    options = settings.inference
    if options.occlusion == "anchors":
        cosine = _cosines(clip, query_frame, query_point, points)
        occluded = _anchor_occlusion(clip, points, cosine, options)
        return _anchor_confidence(cosine, occluded, options), occluded
    if pictures is None:
        everywhere = torch.ones_like(points[..., 0], dtype=torch.bool)
        trip = _round_trips(clip, query_frame, query_point, points, everywhere, options.batch)
        cosine = _cosines(clip, query_frame, query_point, points)
        confidence = visible = _round_trip_confidence(trip, cosine, options)
    else:
        found = pictures.found
        trip = _round_trips(clip, query_frame, query_point, points, ~found, options.batch)
        stiff = stiffness(points, found, query_frame, recalled)
        lasting = in_sight(pictures.past, pictures.contrast, trip, stiff)
        lasting = torch.where(pictures.plain.isnan(), lasting, pictures.plain)
        visible = torch.where(found, 1.0, lasting)
        there = in_place(pictures.remembered.course.off, pictures.lead, stiff)
        confidence = torch.where(found, 1 / (1 + pictures.odds), lasting * there)
    outside = ~inside(points, clip.grid.width, clip.grid.height, RIM)
    return confidence.masked_fill(outside, 0.0), outside | (visible < 0.5)


def _positions(clip: RefinedClip, frames: Tensor, points: Tensor, target: int) -> Tensor:
    """Points [N, 2] of frames [N] found in one target frame, [N, 2]."""
    rows, goal = clip.frames.row[frames], clip.frames.row[target : target + 1]
    return predict(
        clip.tokens, clip.length, clip.grid, clip.head, rows[None], points[None], goal
    )[0]


def _round_trips(
    clip: RefinedClip,
    query_frame: Tensor,
    query_point: Tensor,
    points: Tensor,
    wanted: Tensor,
    batch: int,
) -> Tensor:
    """How far from the query its tracked points end when found again in its frame, [N, T] tokens;
    0 where nobody wants to know, bool [N, T]."""
    error = torch.zeros_like(points[..., 0])
    wanted = clip.frames.asked(wanted)
    for frame in query_frame.unique().tolist():
        asked = wanted & (query_frame == frame)[:, None]
        rows, times = torch.nonzero(asked, as_tuple=True)
        for row, time in zip(rows.split(batch), times.split(batch), strict=True):
            if len(row) == 0:
                continue
            found = _positions(clip, time, points[row, time], frame)
            error[row, time] = (found - query_point[row]).norm(dim=-1)
    return clip.frames.filled(error) / clip.grid.spacing


def _cosines(clip: RefinedClip, query_frame: Tensor, query_point: Tensor, points: Tensor) -> Tensor:
    """Cosine of the features at the query and at every predicted position, [N, T]."""
    query = sample_tokens(clip.tokens, clip.frames.row[query_frame], query_point, clip.grid)
    query = unit_length(query, dim=1)
    cosine = torch.zeros_like(points[..., 0])
    for row, t in enumerate(clip.frames.numbers()):
        frame = torch.full_like(query_frame, row)
        found = sample_tokens(clip.tokens, frame, points[:, t], clip.grid)
        cosine[:, t] = (query * unit_length(found, dim=1)).sum(dim=1)
    return clip.frames.filled(cosine)


def _round_trip_confidence(
    error: Tensor, cosine: Tensor, settings: InferenceSettings
) -> Tensor:
    """0..1 [N, T]: one half where the round trip or the cosine is just at its limit, and as good
    as the worse of the two.

    Args:
        error: [N, T], tokens.
        cosine: [N, T].
    """
    trip = 1 / (1 + (error / settings.round_trip).square())
    likeness = torch.sigmoid((cosine - settings.visible_cosine) / COSINE_SCALE)
    return torch.minimum(trip, likeness)


def _anchor_occlusion(
    clip: RefinedClip, points: Tensor, cosine: Tensor, settings: InferenceSettings
) -> Tensor:
    """Occluded where an anchor disagrees by more than anchors do among themselves, bool [N, T].

    A frame is an anchor where the cosine is high. A frame with a low cosine is occluded, so that
    only those in between need the anchors' vote.
    """
    anchor = cosine >= settings.anchor_cosine
    unsure = ~anchor & (cosine >= settings.visible_cosine)
    voted = (anchor | unsure) & unsure.any(dim=1, keepdim=True)
    distance = _distances_to_anchors(clip, points, anchor, voted, settings.batch)
    median = distance.nanmedian(dim=1).values  # [N, T] over anchors
    limit = median.masked_fill(~anchor | median.isnan(), 0.0).amax(dim=1, keepdim=True)
    disagrees = (median > limit) | ~anchor.any(dim=1, keepdim=True)
    return (~anchor & ~unsure) | (unsure & disagrees)


def _distances_to_anchors(
    clip: RefinedClip, points: Tensor, anchor: Tensor, voted: Tensor, batch: int
) -> Tensor:
    """How far from an anchor's position the points of other frames are found there.

    Args:
        points: [N, T, 2] px.
        anchor: bool [N, T].
        voted: bool [N, T], the frames that are tracked to the anchors.

    Returns:
        [N, T, T] px, anchor first; NaN where nothing was tracked.
    """
    count, frames = voted.shape
    distance = points.new_full((count, frames, frames), torch.nan)
    for a in range(frames):
        rows, times = torch.nonzero(voted & anchor[:, a, None], as_tuple=True)
        for row, time in zip(rows.split(batch), times.split(batch), strict=True):
            if len(row) == 0:
                continue
            found = _positions(clip, time, points[row, time], a)
            distance[row, a, time] = (found - points[row, a]).norm(dim=-1)
    return distance


def _anchor_confidence(cosine: Tensor, occluded: Tensor, settings: InferenceSettings) -> Tensor:
    """Cosine mapped to 0..1, at least one half exactly where the point is said to be visible."""
    low = settings.visible_cosine
    rising = ((cosine - low) / (1 - low)).clamp(0, 1)
    return torch.where(occluded, 0.5 * rising.clamp(max=0.99), 0.5 + 0.5 * rising)
