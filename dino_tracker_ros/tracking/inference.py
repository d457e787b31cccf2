"""Tracks of query points through the clip, with occlusion and confidence.

Tumanyan et al. 2024, sec. 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.head import TrackerHead
from dino_tracker_ros.tracking.matching import predict, sample_tokens, unit_length
from dino_tracker_ros.tracking.model import TrackerModel
from dino_tracker_ros.tracking.settings import InferenceSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid


@dataclass(frozen=True)
class RefinedClip:
    """The refined features of a clip and what finds points in them.

    Attributes:
        tokens: float32 [T, C, rows * cols].
        units: the same, of unit length.
        grid: where the tokens lie.
        head: the fitted head.
    """

    tokens: Tensor
    units: Tensor
    grid: TokenGrid
    head: TrackerHead


@dataclass(frozen=True)
class PointTracks:
    """Tracks in working pixels: points [N, T, 2], occluded bool [N, T], confidence [N, T]."""

    points: Tensor
    occluded: Tensor
    confidence: Tensor


@torch.no_grad()
def refine_clip(
    model: TrackerModel, images: Tensor, features: Tensor, grid: TokenGrid, batch: int
) -> RefinedClip:
    """Refined features of every frame.

    Args:
        images: uint8 [T, 3, H, W].
        features: frozen, [T, C, rows, cols].
        batch: frames at once.
    """
    parts = [
        model.refine(images[k : k + batch], features[k : k + batch], grid)
        for k in range(0, len(images), batch)
    ]
    tokens = torch.cat(parts)
    return RefinedClip(tokens, unit_length(tokens, dim=1), grid, model.head)


@torch.no_grad()
def track(clip: RefinedClip, queries: Tensor, settings: InferenceSettings) -> PointTracks:
    """Tracks of query points through all frames, forward and backward.

    Args:
        queries: [N, 3], (t, x, y), working px.
    """
    parts = [_track_some(clip, some, settings) for some in queries.split(settings.batch)]
    return PointTracks(
        torch.cat([part.points for part in parts]),
        torch.cat([part.occluded for part in parts]),
        torch.cat([part.confidence for part in parts]),
    )


def _track_some(clip: RefinedClip, queries: Tensor, settings: InferenceSettings) -> PointTracks:
    frames = len(clip.tokens)
    query_frame, query_point = queries[:, 0].long(), queries[:, 1:]
    points = torch.stack(
        [_positions(clip, query_frame, query_point, t) for t in range(frames)], dim=1
    )
    points[torch.arange(len(queries)), query_frame] = query_point
    cosine = _cosines(clip, query_frame, query_point, points)
    occluded = _occlusion(clip, points, cosine, settings)
    occluded[torch.arange(len(queries)), query_frame] = False
    confidence = _confidence(cosine, occluded, settings)
    return PointTracks(points, occluded, confidence)


def _positions(clip: RefinedClip, frames: Tensor, points: Tensor, target: int) -> Tensor:
    """Points [N, 2] of frames [N] found in one target frame, [N, 2]."""
    goal = torch.tensor([target], device=points.device)
    return predict(
        clip.tokens, clip.units, clip.grid, clip.head, frames[None], points[None], goal
    )[0]


def _cosines(clip: RefinedClip, query_frame: Tensor, query_point: Tensor, points: Tensor) -> Tensor:
    """Cosine of the features at the query and at every predicted position, [N, T]."""
    query = unit_length(sample_tokens(clip.tokens, query_frame, query_point, clip.grid), dim=1)
    columns = []
    for t in range(points.shape[1]):
        frame = torch.full_like(query_frame, t)
        found = unit_length(sample_tokens(clip.tokens, frame, points[:, t], clip.grid), dim=1)
        columns.append((query * found).sum(dim=1))
    return torch.stack(columns, dim=1)


def _occlusion(
    clip: RefinedClip, points: Tensor, cosine: Tensor, settings: InferenceSettings
) -> Tensor:
    """Occluded where an anchor disagrees by more than anchors do among themselves, bool [N, T].

    A frame is an anchor where the cosine is high. A frame with a low cosine is occluded, so that
    only those in between need the anchors' vote.
    """
    anchor = cosine >= settings.anchor_cosine
    unsure = ~anchor & (cosine >= settings.visible_cosine)
    occluded = ~anchor & ~unsure
    undecided = torch.nonzero(unsure.any(dim=1) & anchor.any(dim=1))[:, 0]
    for n in undecided.tolist():
        anchors = torch.nonzero(anchor[n])[:, 0]
        voted = torch.nonzero(anchor[n] | unsure[n])[:, 0]
        returned = predict(
            clip.tokens,
            clip.units,
            clip.grid,
            clip.head,
            voted.expand(len(anchors), -1),
            points[n, voted].expand(len(anchors), -1, 2),
            anchors,
        )  # [A, V, 2]
        distance = (returned - points[n, anchors][:, None]).norm(dim=-1)
        median = distance.median(dim=0).values
        limit = median[anchor[n, voted]].max()
        occluded[n, voted] = (median > limit) & unsure[n, voted]
    occluded |= unsure & ~anchor.any(dim=1, keepdim=True)
    return occluded


def _confidence(cosine: Tensor, occluded: Tensor, settings: InferenceSettings) -> Tensor:
    """Cosine mapped to 0..1, at least one half exactly where the point is said to be visible."""
    low = settings.visible_cosine
    rising = ((cosine - low) / (1 - low)).clamp(0, 1)
    return torch.where(occluded, 0.5 * rising.clamp(max=0.99), 0.5 + 0.5 * rising)
