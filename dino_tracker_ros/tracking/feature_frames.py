"""Which frames have features, and what is said of those between.

A frame that the backbone passed over has none: nothing speaks for or against a place there but flow
and registration. What flags need of features is interpolated in time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dino_tracker_ros.tracking.errors import ClipError


@dataclass(frozen=True)
class FeatureFrames:
    """Of T frames.

    Attributes:
        row: int64 [T], each frame's row among the S that have features; -1 for the others.
        before, after: int64 [T], the nearest frames that have some, on either side or itself; the
            only one there is counts for both.
        share: [T], of the one before in what is interpolated between them.
    """

    row: Tensor
    before: Tensor
    after: Tensor
    share: Tensor

    def numbers(self) -> list[int]:
        """Of those that have features."""
        return torch.nonzero(self.row >= 0)[:, 0].tolist()

    def weights(self) -> list[float]:
        """How many of the T frames each that has features stands for: those nearest to it."""
        numbers = self.numbers()
        first, last = -1 - numbers[0], 2 * len(self.row) - 1 - numbers[-1]
        ends = zip([first, *numbers[:-1]], [*numbers[1:], last], strict=True)
        return [(after - before) / 2 for before, after in ends]

    def asked(self, wanted: Tensor) -> Tensor:
        """Where features are to be asked, bool [N, T], so that something can be said of what is
        wanted, bool [N, T]."""
        needed = torch.zeros(wanted.shape, device=wanted.device)
        for frames in (self.before, self.after):
            needed.index_add_(1, frames, wanted.float())
        return needed > 0

    def filled(self, values: Tensor) -> Tensor:
        """Values [N, T] of frames that have features, and what they say of the others."""
        return self.share * values[:, self.before] + (1 - self.share) * values[:, self.after]


def feature_frames(known: Sequence[bool], device: torch.device) -> FeatureFrames:
    """Of T frames, of which it is told whether they have features.

    Raises:
        ClipError: none has.
    """
    rows = [t for t, has in enumerate(known) if has]
    if not rows:
        raise ClipError("no frame of the clip has features: have the backbone look at one")
    frames = torch.arange(len(known))
    seen = torch.tensor(rows)
    after = torch.searchsorted(seen, frames)
    before = torch.searchsorted(seen, frames, right=True) - 1
    row = torch.where(before == after, before, -1)
    before, after = seen[before.clamp(min=0)], seen[after.clamp(max=len(rows) - 1)]
    share = ((after - frames) / (after - before).clamp(min=1)).clamp(0, 1)
    return FeatureFrames(*(each.to(device) for each in (row, before, after, share)))
