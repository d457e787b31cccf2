"""How probably a track is on its point where the point's patch is not found.

To be in sight is not to be in place: without its patch a track may sit on the other leg. Three
things give that away: the track had to leave the flow to get there, features like another place as
well, and what bends has legs.
"""

from __future__ import annotations

from torch import Tensor

ODDS = 100.0
"""Of being in place to not being, …"""
OFF_POWER, OFF_NONE = 0.8, 1.0
"""… the less the farther the track once went off flow, px; how much counts as nothing, …"""
STIFF_POWER, STIFF_LEAST = 0.85, 0.02
"""… the less the more the thing bends, …"""
LEAD = 5.5
"""… and e times as much for so much more that speaks against every other place."""


def in_place(off: Tensor, lead: Tensor, stiff: Tensor) -> Tensor:
    """How probably a point that is in sight is within 8/256 of the picture's width of its track: a
    logistic regression.

    Args:
        off: [N, T] working px, see `doubt.farthest_off`.
        lead: [N, T], see `Evidence.lead`.
        stiff: [N], see `stiffness`.

    Returns:
        [N, T] in 0..1; it is meant for those whose patches are not found.
    """
    odds = ODDS * (stiff + STIFF_LEAST)[:, None] ** STIFF_POWER * (lead / LEAD).exp()
    return odds / (odds + (off + OFF_NONE) ** OFF_POWER)
