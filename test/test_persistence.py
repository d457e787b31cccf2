"""Whether what is not found is in sight all the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.persistence import history, in_sight
from dino_tracker_ros.tracking.pyramid import Pyramid, build_pyramid
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH, FRAMES = 120, 160, 8
PACE = torch.tensor([3.0, 1.0])  # px a frame
FAINT, STRONG = 4.0, 120.0  # gray values
HOME = torch.full((1, FRAMES), 0.5)  # round trips that end beside the query, tokens

pytestmark = pytest.mark.usefixtures("one_thread")


def texture(seed: int) -> Tensor:
    """Smooth noise, [HEIGHT, WIDTH] in 0..255."""
    noise = torch.rand(
        1, 1, HEIGHT // 4, WIDTH // 4, generator=torch.Generator().manual_seed(seed)
    )
    size = (HEIGHT, WIDTH)
    return torch.nn.functional.interpolate(255 * noise, size, mode="bicubic", antialias=True)[0, 0]


def pyramid_of(frames: list[Tensor]) -> Pyramid:
    images = torch.stack(frames).round().clamp(0, 255).to(torch.uint8)
    return build_pyramid(images[:, None].expand(-1, 3, -1, -1), WIDTH)


def moving(hidden_from: int = FRAMES, hidden_to: int = FRAMES) -> Pyramid:
    """A texture that moves; something else is shown between two frames."""
    pace = [int(each) for each in PACE]
    frames = [texture(1).roll((t * pace[1], t * pace[0]), dims=(0, 1)) for t in range(FRAMES)]
    for t in range(hidden_from, hidden_to):
        frames[t] = texture(2)
    return pyramid_of(frames)


def flows(pace: Tensor = PACE) -> list[FlowPair]:
    there = pace[:, None, None].expand(2, HEIGHT, WIDTH)
    return [(there, -there)] * (FRAMES - 1)


def along() -> Tensor:
    """A track [1, T, 2] that moves with the texture."""
    return (torch.tensor([60.0, 60.0]) + torch.arange(float(FRAMES))[:, None] * PACE)[None]


def seen_in(*frames: int) -> Tensor:
    seen = torch.zeros(1, FRAMES, dtype=torch.bool)
    seen[0, list(frames)] = True
    return seen


def sure_of(
    pyramid: Pyramid,
    track: Tensor,
    seen: Tensor,
    contrast: float = STRONG,
    trip: Tensor = HOME,
    stiff: bool = True,
    flow: list[FlowPair] | None = None,
) -> Tensor:
    """How surely a point [1, T, 2] is in sight, [T], of a stiff thing or one that bends."""
    of = torch.tensor([contrast]), trip, torch.tensor([0.8 if stiff else 0.1])
    return in_sight(history(pyramid, flow or flows(), track, seen), *of)[0]


def test_what_goes_along_and_does_not_change_is_in_sight() -> None:
    assert (sure_of(moving(), along(), seen_in(0), FAINT) > 0.8).all()


def test_where_the_picture_is_another_it_is_hidden() -> None:
    """From then on: what comes after is like itself, but not what was seen."""
    sure = sure_of(moving(4), along(), seen_in(0))
    assert (sure[:4] > 0.5).all() and (sure[4:] < 0.5).all()


def test_of_what_bends_another_picture_says_little() -> None:
    seen, away = seen_in(0), torch.tensor([[0.5] * 6 + [40.0] * 2])
    sure = sure_of(moving(4), along(), seen, stiff=False)
    assert (sure > 0.7).all()
    # What features find back says more.
    lost = sure_of(moving(4), along(), seen, trip=away, stiff=False)
    assert torch.equal(lost[:6], sure[:6]) and (lost[6:] < 0.4).all()


def test_a_long_way_back_speaks_against_a_stiff_thing_as_much() -> None:
    odds = []
    for stiff in (False, True):
        near, far = (
            sure_of(moving(), along(), seen_in(0), trip=trip, stiff=stiff)
            for trip in (HOME, 20 * HOME)
        )
        odds.append(far / (1 - far) * (1 - near) / near)
    assert (odds[0] < 0.3).all()
    torch.testing.assert_close(odds[0], odds[1], rtol=1e-3, atol=0)


def test_between_two_sightings_the_nearer_one_tells() -> None:
    """Hidden in frames 3 and 4, seen in the first and the last one."""
    sure = sure_of(moving(3, 5), along(), seen_in(0, FRAMES - 1))
    assert (sure > 0.5).tolist() == [True] * 3 + [False] * 2 + [True] * 3


def test_what_leaves_its_flow_is_hidden() -> None:
    track = along()
    track[0, 3:] += torch.tensor([0.0, 20.0])
    pyramid = pyramid_of([torch.full((HEIGHT, WIDTH), 90.0)] * FRAMES)  # nothing to compare
    kept = sure_of(pyramid, along(), seen_in(0))
    left = sure_of(pyramid, track, seen_in(0))
    assert torch.equal(left[:3], kept[:3])
    assert (left[3:] < 0.6 * kept[3:]).all()
    # Flow either way will do: where something comes out there is none from before.
    lost = torch.full((2, HEIGHT, WIDTH), 40.0)
    for blind in ([(lost, back) for _, back in flows()], [(there, lost) for there, _ in flows()]):
        assert torch.equal(sure_of(pyramid, along(), seen_in(0), flow=blind), kept)
    far = [(there + 40, back + 40) for there, back in flows()]
    assert (sure_of(pyramid, along(), seen_in(0), flow=far)[1:] < 0.6 * kept[1:]).all()


def test_a_patch_of_strong_contrast_would_have_been_found() -> None:
    chances = [
        sure_of(moving(), along(), seen_in(0), contrast)[4] for contrast in (1.0, 10.0, 100.0)
    ]
    assert chances[0] > chances[1] > chances[2]


def test_what_was_never_seen_is_not_in_sight() -> None:
    assert (sure_of(moving(), along(), seen_in(), FAINT) == 0).all()


def test_each_track_is_for_itself() -> None:
    tracks = torch.cat([along(), along() + 25.0, along() - 30.0])
    tracks[1, 4:, 0] -= 30.0
    seen = torch.cat([seen_in(0), seen_in(5), seen_in(2)])
    contrast, stiff = torch.tensor([3.0, 20.0, 50.0]), torch.tensor([0.2, 0.9, 0.5])
    trip = torch.rand(3, FRAMES)
    pyramid = moving(3, 5)
    together = in_sight(history(pyramid, flows(), tracks, seen), contrast, trip, stiff)
    for n in range(3):
        own = slice(n, n + 1)
        past = history(pyramid, flows(), tracks[own], seen[own])
        alone = in_sight(past, contrast[own], trip[own], stiff[own])
        torch.testing.assert_close(together[own], alone)


def test_pictures_of_another_size_are_read_at_the_same_places() -> None:
    small = pyramid_of([frame[::2, ::2] for frame in moving().levels[0]])
    wide = replace(small, scale=torch.tensor([0.5, 0.5]))
    sure = sure_of(wide, along(), seen_in(0))[-1]
    assert sure > 0.7
    assert sure_of(small, along(), seen_in(0))[-1] < sure - 0.2


@pytest.mark.parametrize("frames", [1, 2])
def test_few_frames_and_points_beyond_the_border_do(frames: int) -> None:
    pyramid = pyramid_of([texture(1)] * frames)
    tracks = torch.tensor([[[-40.0, 500.0]], [[3.0, 3.0]]]).expand(2, frames, 2)
    seen = torch.zeros(2, frames, dtype=torch.bool)
    seen[:, 0] = True
    of = torch.tensor([5.0, 5.0]), torch.zeros(2, frames), torch.ones(2)
    sure = in_sight(history(pyramid, flows()[: frames - 1], tracks, seen), *of)
    assert sure.shape == (2, frames) and sure.isfinite().all()
