"""Frames that are kept after their clip has gone, because points were asked for on them.

A point that looks as it did when it was asked for, or is not surely seen, keeps its query when its
clip ends: its patch and its features are those of the frame that it was asked on, a keyframe. So it
does not drift, and what was hidden for long is found again and not mistaken for what hides it.
Between a keyframe and the clip lie frames that are gone. What bridges the gap is where the point
was known to be in the frames that the clip shares with the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dino_tracker_ros.tracking.trajectories import FlowPair

NOWHERE = 1e6
"""What stands for flow between frames that do not follow each other, px: it closes no loop."""

Key = tuple[int, float, float]
"""What a query is known by: the stamp of its frame, ns, and its place (x, y) there, px."""


@dataclass(frozen=True)
class Course:
    """What became of N queries in F frames; NaN where nothing is known.

    Attributes:
        points: [N, F, 2], the tracks, (x, y) working px.
        affine: [N, F, 2, 2], how the queries' patches were deformed.
        off: [N, F], how far tracks went off flow since their queries, see `doubt.farthest_off`.
        strayed, changed: [N, F], what happened since they were seen, see `persistence.History`.
        led: [N, F, 2], where the dominant motion leads them, see `dominant.carried_along`.
        found: [N, F], 1 where their patches were found, else 0.
    """

    points: Tensor
    affine: Tensor
    off: Tensor
    strayed: Tensor
    changed: Tensor
    led: Tensor
    found: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> Course:
        """With every tensor [N, F, …] changed alike."""
        return Course(*(change(getattr(self, field.name)) for field in fields(self)))


@dataclass(frozen=True)
class Recalled:
    """What is known of N queries in F frames from the clip before.

    Attributes:
        course: of the queries.
        support: what of their patches is the queries' own surface, [N, size] for each level of the
            pyramid and size of a square of offsets; NaN where it is not known.
        noise: [L, F], of the pyramid's levels; NaN where it is not known.
        keyframes: so many of the F frames, the first ones, are keyframes: behind each lies a gap.
        found, frames: [N], in how many of the frames that are gone the queries' patches were
            found, and how many those are.
    """

    course: Course
    support: Mapping[tuple[int, int], Tensor]
    noise: Tensor
    keyframes: int
    found: Tensor
    frames: Tensor

    def after_gap(self, frame: int, step: int) -> bool:
        """Whether who comes to a frame from the one `step` (1 or -1) before it crosses a gap."""
        return 0 <= min(frame, frame - step) < self.keyframes

    def rows(self, part: slice | Tensor) -> Recalled:
        """Of some of the queries."""
        return replace(
            self,
            course=self.course.map(lambda values: values[part]),
            support={size: values[part] for size, values in self.support.items()},
            found=self.found[part],
            frames=self.frames[part],
        )


@dataclass(frozen=True)
class _Look:
    """What became of queries in one clip.

    Attributes:
        rows: of the queries.
        columns: of the frames, by their stamps, ns.
        told: of them.
    """

    rows: Mapping[Key, int]
    columns: Mapping[int, int]
    told: Recalled


class Recollection:
    """What became of queries in the clip before, and what becomes of them in this one."""

    def __init__(self) -> None:
        self._before: _Look | None = None
        self._now: _Look | None = None

    def turn_over(self) -> None:
        """This clip is now the one before: frames of it are gone."""
        self._before, self._now = self._now or self._before, None

    def note(self, keys: Sequence[Key], stamps: Sequence[int], told: Recalled) -> None:
        """Notes what became of N queries in F frames, beside what was noted of others."""
        columns = {stamp: column for column, stamp in enumerate(stamps)}
        keys = list(keys)
        if self._now is not None and self._now.columns == columns:
            others = {key: row for key, row in self._now.rows.items() if key not in set(keys)}
            rows = torch.tensor(list(others.values()), dtype=torch.long)
            told = joined([told, self._now.told.rows(rows.to(told.found.device))])
            keys += others
        self._now = _Look({key: row for row, key in enumerate(keys)}, columns, told)

    def recall(self, keys: Sequence[Key], stamps: Sequence[int], keyframes: int) -> Recalled | None:
        """What is known of N queries in F frames, the first of which are keyframes; None where
        nothing is known of any query."""
        if self._before is None or not keyframes:
            return None
        told, columns = self._before.told, self._before.columns
        device = told.found.device
        row = torch.tensor([self._before.rows.get(key, -1) for key in keys], device=device)
        column = torch.tensor([columns.get(stamp, -1) for stamp in stamps], device=device)

        def of_queries(values: Tensor) -> Tensor:
            chosen = values[row]
            chosen[row < 0] = torch.nan
            return chosen

        def of_frames(values: Tensor) -> Tensor:
            chosen = values[:, column]
            chosen[:, column < 0] = torch.nan
            return chosen

        gone = [column for stamp, column in columns.items() if stamp not in set(stamps)]
        found = told.found + told.course.found[:, gone].sum(dim=1)
        return Recalled(
            course=told.course.map(of_queries).map(of_frames),
            support={size: of_queries(values) for size, values in told.support.items()},
            noise=of_frames(told.noise),
            keyframes=keyframes,
            found=of_queries(found).nan_to_num(0.0),
            frames=of_queries(told.frames + len(gone)).nan_to_num(0.0),
        )


def joined(parts: Sequence[Recalled]) -> Recalled:
    """What is known of the queries of all parts, which share their frames."""
    first, courses = parts[0], [part.course for part in parts]
    names = [field.name for field in fields(Course)]
    course = Course(*(torch.cat([getattr(each, name) for each in courses]) for name in names))
    return replace(
        first,
        course=course,
        support={size: torch.cat([part.support[size] for part in parts]) for size in first.support},
        found=torch.cat([part.found for part in parts]),
        frames=torch.cat([part.frames for part in parts]),
    )


def remember(
    course: Course,
    support: Mapping[tuple[int, int], Tensor],
    noise: Tensor,
    recalled: Recalled | None,
) -> Recalled:
    """What a later clip recalls of queries.

    Args:
        course: of N queries in F frames.
        support, noise: see `Recalled`.
        recalled: from the clip before; None where there was none.
    """
    if recalled is not None:
        return replace(recalled, course=course, support=support, noise=noise)
    nothing = torch.zeros_like(course.off[:, 0])
    return Recalled(course, support, noise, 0, nothing, nothing)


def deformation(course: Course) -> Tensor:
    """How much patches were deformed since their queries, [N, F]: by what share of its length an
    offset from the point was moved, root mean square over all directions. 0.5 where a patch has
    turned by 29° or grown by half; infinite where it was not found."""
    moved = course.affine - torch.eye(2, device=course.affine.device)
    share = (moved.square().sum(dim=(-2, -1)) / 2).sqrt()
    return torch.where(course.found > 0, share, torch.inf)


def no_flow(height: int, width: int, device: torch.device) -> FlowPair:
    """What stands for flow across a gap, both ways."""
    nowhere = torch.full((2, 1, 1), NOWHERE, device=device).expand(2, height, width)
    return nowhere, nowhere
