"""How noisy pictures are: by how much gray values change along flow.

A patch in noise is never quite like itself, the less so the fainter it is. What may be asked of it
then depends on the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dino_tracker_ros.tracking.lattice import all_over
from dino_tracker_ros.tracking.pyramid import Pyramid
from dino_tracker_ros.tracking.trajectories import FlowPair, follow, sample_map

SPACING = 7
"""Between the places where pictures are compared, working px."""
CLOSES = 0.5
"""Forward-backward error up to which flow is believed, px."""
FEWEST = 50
"""Places from which on they tell anything."""
NORMAL = 1.4826
"""Standard deviation of normal noise for a median of its absolute values of one."""


def with_noise(pyramid: Pyramid, flows: Sequence[FlowPair]) -> Pyramid:
    """The pyramid of T frames, and how noisy each is: the smaller of what the step to the next
    frame and the one from the frame before tell; 0 where neither tells anything.

    Args:
        flows: T-1 pairs of flow between frames t and t+1.
    """
    if not flows:
        return pyramid
    steps = torch.stack([_changed(pyramid, t, flow) for t, flow in enumerate(flows)], dim=1)
    unknown = torch.full_like(steps[:, :1], torch.inf)
    noise = torch.minimum(
        torch.cat([unknown, steps], dim=1), torch.cat([steps, unknown], dim=1)
    )
    return replace(pyramid, noise=noise.nan_to_num(posinf=0.0))


def _changed(pyramid: Pyramid, frame: int, flow: FlowPair) -> Tensor:
    """Noise of a frame and the next one on all levels [L]; infinite where flow tells nothing."""
    height, width = flow[0].shape[-2:]
    here = all_over(height, width, SPACING, flow[0])
    there, usable = follow(here, flow, CLOSES)
    here, there = here[usable], there[usable]
    if len(here) < FEWEST:
        return here.new_full((len(pyramid.levels),), torch.inf)
    changes = []
    for number, level in enumerate(pyramid.levels):
        start, end = (pyramid.to_picture(places) / 2**number for places in (here, there))
        # On a pixel: between them noise is smoothed away.
        pixel = start.round()
        before = sample_map(level[frame, None], pixel)[:, 0]
        after = sample_map(level[frame + 1, None], end + pixel - start)[:, 0]
        changes.append(after - before)
    change = torch.stack(changes)
    change = change - change.median(dim=1, keepdim=True).values
    return NORMAL * change.abs().median(dim=1).values / 2**0.5
