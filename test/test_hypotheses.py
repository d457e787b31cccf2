"""The cheapest path through flow and matches, where what is right is plain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates, follow
from dino_tracker_ros.tracking.settings import HypothesesSettings
from dino_tracker_ros.tracking.trajectories import FlowPair

HEIGHT, WIDTH, FRAMES, TOKEN, LOOP = 160, 220, 10, 10.0, 1.5
OPTIONS = HypothesesSettings(
    candidates=5, kept=6, match_error=0.5, flow_error=0.2, gate=3.0, most_price=10.0,
    lost_price=6.0, jump_price=4.0, jump_growth=1.0,
)  # fmt: skip
STEP = torch.tensor([3.0, 1.0])


pytestmark = pytest.mark.usefixtures("one_thread")


def line(start: Sequence[float], step: Tensor = STEP, frames: int = FRAMES) -> Tensor:
    """A point that goes on evenly, [T, 2]."""
    return torch.tensor(start) + step * torch.arange(frames)[:, None]


def flow_of(step: Tensor, missed: float = 0.0) -> FlowPair:
    """All pixels move alike; the way back misses the start by some px."""
    there = step[:, None, None].expand(2, HEIGHT, WIDTH)
    return there, -there + missed / 2**0.5


def even_flow(frames: int = FRAMES, step: Tensor = STEP) -> list[FlowPair]:
    return [flow_of(step)] * (frames - 1)


def matches(places: Tensor, price: float = 0.0, sure: bool = False) -> Candidates:
    """One candidate a point at places [N, 2]."""
    count = len(places)
    error = 0.1 if sure else OPTIONS.match_error * TOKEN
    return Candidates(
        places[:, None].clone(),
        torch.full((count, 1), error**2),
        torch.full((count, 1), price),
        torch.full((count, 1), sure),
    )


def joined(*parts: Candidates) -> Candidates:
    return Candidates(*(
        torch.cat([getattr(part, name) for part in parts], dim=1)
        for name in Candidates.__dataclass_fields__
    ))  # fmt: skip


def nothing(count: int = 1) -> Candidates:
    return matches(torch.zeros(count, 2), price=NEVER)


class Features:
    """A price that grows with the distance from the truth [N, T, 2], up to 5; some frames see
    nothing of the point."""

    def __init__(self, truth: Tensor, blind: Sequence[int] = ()) -> None:
        self.truth, self.blind = truth, blind

    def __call__(self, frame: int, rows: Tensor, points: Tensor) -> Tensor:
        far = (points - self.truth[rows, frame]).norm(dim=-1)
        price = (far / TOKEN).square().clamp(max=5.0)
        return torch.full_like(price, 5.0) if frame in self.blind else price


def followed(
    truth: Tensor,
    candidates: Sequence[Candidates],
    flows: Sequence[FlowPair],
    at: int | Sequence[int] = 0,
    blind: Sequence[int] = (),
    price: Features | None = None,
    settings: HypothesesSettings = OPTIONS,
) -> Tensor:
    """Paths [N, T, 2] of points with truth [N, T, 2], queried in frames `at`."""
    home = torch.tensor([at] * len(truth) if isinstance(at, int) else list(at))
    queries = truth[torch.arange(len(truth)), home]
    return follow(
        candidates, price or Features(truth, blind), flows, home, queries, TOKEN, LOOP, settings
    )


def off_by(path: Tensor, truth: Tensor) -> Tensor:
    return (path - truth).norm(dim=-1)


@pytest.mark.parametrize("at", [0, 4, FRAMES - 1])
def test_clean_flow_is_followed_through_coarse_matches(at: int) -> None:
    truth = torch.stack([line((40, 30)), line((100, 90))])
    alone = followed(truth, [nothing(2)] * FRAMES, even_flow(), at)
    torch.testing.assert_close(alone, truth, atol=1e-3, rtol=0)
    generator = torch.Generator().manual_seed(0)
    noise = 0.5 * TOKEN * torch.randn(2, FRAMES, 2, generator=generator)
    coarse = [matches(truth[:, t] + noise[:, t]) for t in range(FRAMES)]
    path = followed(truth, coarse, even_flow(), at)
    assert off_by(path, truth).max() < 0.25 * noise.norm(dim=-1).mean()
    assert torch.equal(path[:, at], truth[:, at])


def test_flow_that_takes_a_point_along_is_left_by_a_jump() -> None:
    """From frame 3 to 4 flow goes off with something else, and closes every loop."""
    truth = line((40, 30))[None]
    flows = even_flow()
    flows[3] = flow_of(torch.tensor([60.0, 30.0]))
    candidates = [matches(truth[:, t]) for t in range(FRAMES)]
    path = followed(truth, candidates, flows)
    assert off_by(path, truth).max() < 1
    # Where jumps cost more than all that features say, flow is believed.
    stubborn = replace(OPTIONS, jump_price=1e3)
    assert off_by(followed(truth, candidates, flows, settings=stubborn), truth)[0, 4:].min() > 40


def test_flow_that_drifts_slowly_is_held_by_matches() -> None:
    truth = line((40, 30))[None]
    flows = even_flow(step=STEP + torch.tensor([0.3, 0.0]))
    candidates = [matches(truth[:, t]) for t in range(FRAMES)]
    drifted = off_by(followed(truth, [nothing()] * FRAMES, flows), truth)
    held = off_by(followed(truth, candidates, flows), truth)
    assert drifted[0, -1] == pytest.approx(0.3 * (FRAMES - 1), abs=1e-3)
    assert (held[0, 1:] < drifted[0, 1:]).all()
    # The surer the matches, the more so.
    surer = [replace(c, variance=torch.full_like(c.variance, 0.05)) for c in candidates]
    assert off_by(followed(truth, surer, flows), truth).max() < 0.4


def test_one_false_match_attracts_nothing() -> None:
    truth = line((40, 30))[None]
    candidates = [matches(truth[:, t]) for t in range(FRAMES)]
    # For one frame features see the point elsewhere, and nothing where it is.
    candidates[5] = matches(truth[:, 5] + torch.tensor([60.0, 40.0]))
    path = followed(truth, candidates, even_flow(), blind=[5])
    assert off_by(path, truth).max() < 0.5


@pytest.mark.parametrize(("away", "goes"), [(40.0, True), (120.0, False)])
def test_a_look_alike_draws_a_path_only_from_nearby(away: float, goes: bool) -> None:
    """For four frames features see the point elsewhere, and nothing where it is."""
    truth = line((40, 30))[None]
    seen = truth.clone()
    seen[:, 4:8] += torch.tensor([away, 0.0])
    candidates = [matches(seen[:, t]) for t in range(FRAMES)]
    options = replace(OPTIONS, jump_price=2.0, jump_growth=3.0)
    # A price that is the same near and far.
    anyhow = followed(
        truth, candidates, even_flow(), price=Features(seen),
        settings=replace(options, jump_growth=0.0),
    )  # fmt: skip
    assert off_by(anyhow, seen).max() < 2
    path = followed(truth, candidates, even_flow(), price=Features(seen), settings=options)
    assert off_by(path, seen if goes else truth).max() < 2


@pytest.mark.parametrize("ends_left", [False, True])
def test_a_jump_starts_from_the_path_beside_it(ends_left: bool) -> None:
    """The cheaper of two paths is left behind where the next match is beside the other."""
    left, right = line((40, 30)), line((140, 30))
    end = (left if ends_left else right) + torch.tensor([0.0, 35.0])
    candidates = [
        joined(matches(left[None, t], price=3.0), matches(right[None, t])) for t in range(5)
    ]
    candidates += [matches(end[None, t]) for t in range(5, FRAMES)]
    on_left, on_right, at_end = (Features(place[None]) for place in (left, right, end))

    def price(frame: int, rows: Tensor, points: Tensor) -> Tensor:
        if frame >= 5:
            return at_end(frame, rows, points)
        return torch.minimum(3 + on_left(frame, rows, points), on_right(frame, rows, points))

    home = torch.zeros(1, dtype=torch.long)
    options = replace(OPTIONS, jump_price=1.0, jump_growth=4.0)
    path = follow(candidates, price, even_flow(), home, left[None, 0], TOKEN, LOOP, options)[0]
    assert (path - end)[5:].norm(dim=-1).max() < 2
    # To stay costs 12 until then, to go to the right at once 14.
    assert (path - (left if ends_left else right))[1:5].norm(dim=-1).max() < 2


def test_an_occluded_stretch_is_bridged() -> None:
    truth = line((40, 30))[None]
    # Features see nothing of frames 4 to 6, and flow is that of the occluder.
    hidden = [4, 5, 6]
    candidates = [nothing() if t in hidden else matches(truth[:, t]) for t in range(FRAMES)]
    flows = even_flow()
    for t in (3, 4, 5, 6):
        flows[t] = flow_of(torch.tensor([-8.0, 5.0]), missed=9.0)
    path = followed(truth, candidates, flows, blind=hidden)
    seen = [t for t in range(FRAMES) if t not in hidden]
    assert off_by(path, truth)[0, seen].max() < 0.5
    assert path.isfinite().all()
    # Nobody knows where it was meanwhile, but not far away.
    assert off_by(path, truth).max() < 50


@pytest.mark.parametrize("at", [0, 3, FRAMES - 1])
def test_backward_is_forward_on_the_reversed_clip(at: int) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.stack([line((40, 30)), line((120, 60)), line((60, 100))])
    candidates = [
        joined(
            matches(truth[:, t] + 4 * torch.randn(3, 2, generator=generator)),
            matches(200 * torch.rand(3, 2, generator=generator), price=1.0),
        )
        for t in range(FRAMES)
    ]
    flows = [
        (
            (STEP + torch.randn(2, generator=generator))[:, None, None].expand(2, HEIGHT, WIDTH),
            (-STEP + torch.randn(2, generator=generator))[:, None, None].expand(2, HEIGHT, WIDTH),
        )
        for _ in range(FRAMES - 1)
    ]
    path = followed(truth, candidates, flows, at)
    mirrored = [(back, there) for there, back in reversed(flows)]
    again = followed(truth.flip(1), candidates[::-1], mirrored, FRAMES - 1 - at)
    torch.testing.assert_close(again.flip(1), path, atol=1e-3, rtol=0)


def test_points_of_different_frames_are_followed_together_as_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    count = 8
    start = torch.rand(count, 2, generator=generator) * torch.tensor([100.0, 90.0]) + 20
    truth = start[:, None] + STEP * torch.arange(FRAMES)[:, None]
    home = [0, 9, 3, 3, 5, 0, 8, 1]
    noise = 5 * torch.randn(count, FRAMES, 2, generator=generator)
    flows = [flow_of(STEP + torch.randn(2, generator=generator), 0.4) for _ in range(FRAMES - 1)]
    candidates = [matches(truth[:, t] + noise[:, t]) for t in range(FRAMES)]
    together = followed(truth, candidates, flows, home)
    for n in range(count):
        own = [
            Candidates(*(getattr(c, name)[n : n + 1] for name in Candidates.__dataclass_fields__))
            for c in candidates
        ]
        alone = followed(truth[n : n + 1], own, flows, home[n])
        torch.testing.assert_close(together[n], alone[0], atol=1e-3, rtol=0)
        assert torch.equal(together[n, home[n]], truth[n, home[n]])


def test_a_registered_patch_pulls_the_path_onto_it() -> None:
    truth = line((40, 30))[None]
    flows = even_flow(step=STEP + torch.tensor([0.25, 0.0]))
    nearer = truth + torch.tensor([2.0, 0.0])
    # A feature match lies nearer to what flow says than the registered patch does.
    candidates = [
        joined(matches(nearer[:, t]), matches(truth[:, t], price=-3.0, sure=True))
        for t in range(FRAMES)
    ]
    path = followed(truth, candidates, flows)
    assert off_by(path, truth).max() < 0.15
    without = [matches(nearer[:, t]) for t in range(FRAMES)]
    assert off_by(followed(truth, without, flows), truth)[0, -1] > 1


def test_a_registered_patch_outweighs_features_that_see_a_twin() -> None:
    truth = line((40, 30))[None]
    twin = truth + torch.tensor([70.0, 50.0])
    price = Features(twin)  # the query itself is at the truth
    match = [matches(twin[:, t]) for t in range(FRAMES)]
    lured = followed(truth, match, even_flow(), price=price)
    assert off_by(lured, twin)[0, 2:].max() < 2
    patch = [matches(truth[:, t], price=-3.0, sure=True) for t in range(FRAMES)]
    both = [joined(a, b) for a, b in zip(match, patch)]
    assert off_by(followed(truth, both, even_flow(), price=price), truth).max() < 0.1


def test_later_certainty_corrects_earlier_frames() -> None:
    """Flow drifts evenly, and the last frame knows better: all between share the correction."""
    truth = line((40, 30))[None]
    drift = torch.tensor([0.15, -0.1])
    flows = even_flow(step=STEP + drift)
    candidates = [nothing()] * FRAMES
    before = followed(truth, candidates, flows) - truth
    torch.testing.assert_close(before[0], drift * torch.arange(FRAMES)[:, None], atol=1e-3, rtol=0)
    candidates[-1] = matches(truth[:, -1], price=-3.0, sure=True)
    path = followed(truth, candidates, flows)
    # The query is a little uncertain too: it is not moved, but the frames beside it are.
    assert off_by(path, truth).max() < 0.4
    assert off_by(path, truth).mean() < 0.25 * before.norm(dim=-1).mean()
    assert torch.equal(path[:, 0], truth[:, 0])


def test_twins_do_not_crowd_out_the_right_path() -> None:
    """In frame 1 three cheap hypotheses are one, and the dear one turns out to be right."""
    truth = torch.cat([line((40, 30))[:1], line((43, 31), frames=FRAMES - 1) + 70])[None]
    wrong = line((40, 30))[None]
    candidates = [matches(truth[:, t]) for t in range(FRAMES)]
    candidates[1] = joined(
        matches(wrong[:, 1] + 0.5), matches(wrong[:, 1] - 0.5, price=0.1), matches(truth[:, 1])
    )
    price = Features(truth)
    price.truth = truth.clone()
    price.truth[:, 1] = wrong[:, 1] + torch.tensor([5.0, 0.0])  # and not cheaper in the end
    path = followed(truth, candidates, even_flow(), price=price, settings=replace(OPTIONS, kept=2))
    assert off_by(path, truth).max() < 1


@pytest.mark.parametrize("frames", [1, 2])
def test_short_clips(frames: int) -> None:
    truth = line((40, 30), frames=frames)[None]
    path = followed(truth, [matches(truth[:, t]) for t in range(frames)], even_flow(frames))
    torch.testing.assert_close(path, truth, atol=0.1, rtol=0)


def test_a_point_that_leaves_the_picture_is_found_when_it_returns() -> None:
    there_and_back = torch.tensor([0.0, 1, 2, 3, 4, 4, 3, 2, 1, 0])[:, None]
    truth = (torch.tensor([180.0, 60.0]) + there_and_back * torch.tensor([15.0, 0.0]))[None]
    outside = [t for t in range(FRAMES) if truth[0, t, 0] > WIDTH]
    assert len(outside) >= 3
    candidates = [nothing() if t in outside else matches(truth[:, t]) for t in range(FRAMES)]
    flows = [flow_of(truth[0, t + 1] - truth[0, t]) for t in range(FRAMES - 1)]
    path = followed(truth, candidates, flows, blind=outside)
    assert path.isfinite().all()
    seen = [t for t in range(FRAMES) if t not in outside]
    assert off_by(path, truth)[0, seen].max() < 1


class Asked(Features):
    """Remembers what it is asked; even the truth costs something."""

    def __init__(self, truth: Tensor) -> None:
        super().__init__(truth)
        self.rows: dict[int, list[int]] = {}

    def __call__(self, frame: int, rows: Tensor, points: Tensor) -> Tensor:
        assert points.shape == (len(rows), 2)
        assert frame not in self.rows
        self.rows[frame] = rows.tolist()
        return super().__call__(frame, rows, points) + 1.0


def test_features_are_asked_only_of_paths_that_may_win() -> None:
    truth = torch.stack([line((40, 30)), line((100, 90))])
    # Wherever they might jump to is far from where flow leads.
    twin = torch.tensor([60.0, -25.0])
    registered = torch.tensor([[True], [False]])
    candidates = []
    for t in range(FRAMES):
        patch = matches(truth[:, t], price=-3.0, sure=True)
        price = torch.where(registered, patch.price, NEVER)
        patch = replace(patch, price=price, sure=registered)
        candidates.append(joined(matches(truth[:, t] + twin, price=2.0), patch))
    asked = Asked(truth)
    path = followed(truth, candidates, even_flow(), price=asked)
    assert off_by(path, truth).max() < 0.5
    assert sorted(asked.rows) == list(range(1, FRAMES))
    # At first there is one path a point; point 0's is registered.
    assert asked.rows[1] == [1]
    # Then there is the jump to the twin as well; the other places are not taken.
    assert asked.rows[2] == [0, 1, 1]
    # Along the registered path nobody asks later either.
    everything = [row for rows in asked.rows.values() for row in rows]
    assert everything.count(0) < (FRAMES - 1) * (OPTIONS.kept - 1)
