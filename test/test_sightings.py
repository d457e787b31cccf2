"""Where patches are looked for, how often, and what is made of finding nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dino_tracker_ros.tracking import sightings as sightings_module
from dino_tracker_ros.tracking.consensus import Expected
from dino_tracker_ros.tracking.hypotheses import NEVER, Candidates
from dino_tracker_ros.tracking.keyframes import Course, Recalled
from dino_tracker_ros.tracking.pyramid import COARSEST, Pyramid, build_pyramid
from dino_tracker_ros.tracking.registration import Patches, Registration, register
from dino_tracker_ros.tracking.settings import RegistrationSettings
from dino_tracker_ros.tracking.sightings import (
    Sightings,
    look,
    query_patches,
    taken_by_tracks,
    with_sightings,
)

HEIGHT, WIDTH = 120, 160
OPTIONS = RegistrationSettings(longest_side=4096, radius=10, likeness=0.85, reach=16.0)
QUERIES = torch.tensor([[40.0, 40.0], [80.0, 60.0], [120.0, 80.0]])


pytestmark = pytest.mark.usefixtures("one_thread")


def texture(seed: int = 0, turn: float = 0.0) -> Tensor:
    """Smooth random waves [H, W] in 0..255, turned around the middle by an angle."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(2, 40, generator=generator) / 4
    phase = 6.3 * torch.rand(40, generator=generator)
    y, x = torch.meshgrid(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij")
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2])
    places = (torch.stack([x, y], dim=-1) - middle) @ rotation(turn) + middle
    return (110 + 280 * torch.sin(places @ direction + phase).mean(dim=-1)).clamp(0, 255)


def rotation(angle: float) -> Tensor:
    turn = torch.tensor(angle)
    return torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()]).view(2, 2)


def pyramid_of(*pictures: Tensor) -> Pyramid:
    frames = torch.stack(pictures).round().clamp(0, 255).to(torch.uint8)
    return build_pyramid(frames[:, None].expand(-1, 3, -1, -1), OPTIONS.longest_side)


def flat() -> Tensor:
    return torch.full((HEIGHT, WIDTH), 90.0)


@dataclass(frozen=True)
class Try:
    """One patch that was looked for."""

    frame: int
    row: int
    start: Tensor
    affine: Tensor
    coarsest: int
    radius: int


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Try]:
    """Everything that is looked for, in order."""
    told: list[Try] = []

    def remember(
        pyramid: Pyramid, templates: list, rows: Tensor, frames: Tensor, start: Tensor,
        affine: Tensor, coarsest: int, reach: float, settings: RegistrationSettings,
        vouched: float = 0.0,
    ) -> Patches:  # fmt: skip
        radius = int(templates[0].offsets.max())
        told.extend(
            Try(frame, row, place.clone(), warp.clone(), coarsest, radius)
            for frame, row, place, warp in zip(
                frames.tolist(), rows.tolist(), start, affine, strict=True
            )
        )
        return register(
            pyramid, templates, rows, frames, start, affine, coarsest, reach, settings, vouched
        )

    monkeypatch.setattr(sightings_module, "register", remember)
    return told


class Neighbours:
    """Says where points are, one answer a round; the last one is repeated.

    Args:
        likely, other: places [N, T, 2] of each round, NaN where neighbours do not agree.
    """

    def __init__(self, likely: list[Tensor], other: list[Tensor] | None = None) -> None:
        self.likely = likely
        self.other = other or [torch.full_like(likely[0], torch.nan)]
        self.asked = 0

    def __call__(self, *_: Tensor) -> tuple[Expected, Expected]:
        rounds = (self.likely, self.other)
        answers = [each[min(self.asked, len(each) - 1)] for each in rounds]
        self.asked += 1
        return tuple(  # type: ignore[return-value]
            Expected(
                places.nan_to_num(0.0),
                torch.eye(2).repeat(*places.shape[:2], 1, 1),
                ~places.isnan().any(dim=-1),
            )
            for places in answers
        )


def still(frames: int, points: Tensor = QUERIES) -> Tensor:
    """Points [N, T, 2] that stay where they are."""
    return points[:, None].repeat(1, frames, 1)


def nobody(frames: int, count: int = len(QUERIES)) -> Tensor:
    return torch.full((count, frames, 2), torch.nan)


def nowhere(points: Tensor) -> Tensor:
    """Flow carries nothing anywhere."""
    return torch.full_like(points, torch.nan)


def looked(
    monkeypatch: pytest.MonkeyPatch,
    pyramid: Pyramid,
    points: Tensor,
    neighbours: Neighbours,
    before: Sightings | None = None,
) -> Sightings:
    """A look for QUERIES of frame 0 where neighbours say what they are told to."""
    monkeypatch.setattr(sightings_module, "expect_from_neighbours", neighbours)
    home = torch.zeros(len(points)).long()
    patches = query_patches(pyramid, home, QUERIES[: len(points)], OPTIONS)
    return look(pyramid, patches, points, nowhere(points), before, OPTIONS)


def sent_by_neighbours(tries: list[Try]) -> list[tuple[int, int, int]]:
    """(row, x, radius) of what neighbours had looked for; paths begin on the coarsest level."""
    return [
        (each.row, round(float(each.start[0])), each.radius)
        for each in tries
        if each.coarsest != COARSEST
    ]


def test_a_place_where_nothing_was_found_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tries: list[Try]
) -> None:
    pyramid = pyramid_of(texture(), flat())
    there = nobody(2)
    there[0, 1] = torch.tensor([50.0, 40.0])
    # The second round and the second look send it to nearly the same place.
    beside = there + 0.6
    first = looked(monkeypatch, pyramid, still(2), Neighbours([there, beside]))
    whole, halved = OPTIONS.radius, OPTIONS.radius // 2
    assert sent_by_neighbours(tries) == [(0, 50, whole), (0, 50, halved)]
    tries.clear()
    again = looked(monkeypatch, pyramid, still(2), Neighbours([beside]), first)
    assert sent_by_neighbours(tries) == []
    # Sent elsewhere, it is; and others that are sent to where it failed.
    elsewhere = nobody(2)
    elsewhere[:2, 1] = torch.tensor([[52.0, 40.0], [50.0, 40.0]])
    looked(monkeypatch, pyramid, still(2), Neighbours([elsewhere]), again)
    assert sent_by_neighbours(tries) == [
        (0, 52, whole), (1, 50, whole), (0, 52, halved), (1, 50, halved),
    ]  # fmt: skip


def test_a_second_round_elsewhere_is_tried_and_the_two_answers_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, tries: list[Try]
) -> None:
    pyramid = pyramid_of(texture(), flat())
    here, there = nobody(2), nobody(2)
    here[2, 1], there[2, 1] = torch.tensor([100.0, 80.0]), torch.tensor([110.0, 80.0])
    looked(monkeypatch, pyramid, still(2), Neighbours([here, there], [there, here]))
    whole, halved = OPTIONS.radius, OPTIONS.radius // 2
    assert sent_by_neighbours(tries) == [
        (2, x, radius) for x in (100, 110, 110, 100) for radius in (whole, halved)
    ]


def test_what_is_seen_is_not_looked_for_again(
    monkeypatch: pytest.MonkeyPatch, tries: list[Try]
) -> None:
    pyramid = pyramid_of(texture(), texture(), texture())
    likely = still(3) + 0.5
    first = looked(monkeypatch, pyramid, still(3) + 0.3, Neighbours([likely]))
    assert first.registration.found.all()
    assert (first.registration.points - still(3)).norm(dim=-1).max() < 0.05
    # Once along the paths, and neighbours had nothing to add.
    assert [(each.frame, each.row) for each in tries] == [(t, n) for t in (1, 2) for n in range(3)]
    found = {name: value.clone() for name, value in vars(first.registration).items()}
    tries.clear()
    moved = still(3)
    moved[1, 2] += torch.tensor([0.0, 3.0])  # a path that has changed
    again = looked(monkeypatch, pyramid, moved, Neighbours([likely]), first)
    assert [(each.frame, each.row) for each in tries] == [(2, 1)]
    torch.testing.assert_close(again.registration.points, found["points"], atol=0.01, rtol=0)
    assert again.registration.found.all()


def lookalike() -> tuple[Pyramid, Tensor]:
    """Frame 1 shows the first query's patch where it was, and some 60 px on one that is nearly
    as it."""
    first = texture()
    second = texture()
    shift = torch.tensor([60.0, 10.0])
    x, y = QUERIES[0].long().tolist()
    box = slice(y - 20, y + 20), slice(x - 20, x + 20)
    twin = slice(y - 10, y + 30), slice(x + 40, x + 80)
    second[twin] = 0.75 * first[box] + 0.25 * texture(seed=5)[box]
    return pyramid_of(first, second), QUERIES[0] + shift


@pytest.mark.parametrize("lured", [True, False])
def test_neighbours_correct_a_path_that_saw_a_lookalike(
    monkeypatch: pytest.MonkeyPatch, lured: bool
) -> None:
    """Both places are tried, and the one that is surer counts, whoever it is that proposed it."""
    pyramid, wrong = lookalike()
    path, said = still(2, QUERIES[:1]), nobody(2, 1)
    path[0, 1], said[0, 1] = (wrong, QUERIES[0]) if lured else (QUERIES[0], wrong)
    alone = looked(monkeypatch, pyramid, path, Neighbours([nobody(2, 1)])).registration
    assert alone.found.all()
    assert (alone.points[0, 1] - path[0, 1]).norm() < 1
    assert (alone.error[0, 1] > 0.03) == lured
    seen = looked(monkeypatch, pyramid, path, Neighbours([said])).registration
    assert (seen.points[0, 1] - QUERIES[0]).norm() < 0.05
    assert seen.error[0, 1] < 0.03


@pytest.mark.parametrize(("known", "limit"), [(True, 0.05), (False, 0.05), (True, 1.0)])
def test_what_neighbours_place_elsewhere_must_be_surer(
    monkeypatch: pytest.MonkeyPatch, known: bool, limit: float
) -> None:
    """The first query's patch is covered in frame 2, where one is seen that looks like it.
    Neighbours that were right about the point in frame 1 are believed; those that never were,
    as about a thing of its own motion, are not, nor is anyone about what is placed surely."""
    monkeypatch.setattr(sightings_module, "CONTRADICTED", limit)
    shown, wrong = lookalike()
    covered = shown.levels[0][1].clone()
    covered[20:60, 20:60] = flat()[20:60, 20:60]
    pyramid = pyramid_of(texture(), texture(), covered)
    path, said = still(3), still(3)
    path[0, 2] = wrong
    said[:, 0] = torch.nan
    if not known:
        said[0, 1] += 30.0
    sightings = looked(monkeypatch, pyramid, path, Neighbours([said]))
    seen = sightings.registration
    assert 0.05 < seen.error[0, 2] < 1.0
    contradicted = known and limit < seen.error[0, 2]
    assert contradicted == (known and limit < 1)
    assert seen.found[0].tolist() == [True, True, not contradicted]


def test_what_hardly_anything_places_is_refused_unless_neighbours_confirm_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A patch of stripes, which says nothing of where along them it lies, and little else."""
    generator = torch.Generator().manual_seed(6)
    x = torch.arange(float(WIDTH)).expand(HEIGHT, WIDTH)
    stripes = 128 + 40 * torch.sin(x / 5)
    faint, strong = torch.randn(2, HEIGHT, WIDTH, generator=generator)
    pyramid = pyramid_of(stripes + faint, stripes + 12 * strong)
    alone = looked(monkeypatch, pyramid, still(2), Neighbours([nobody(2)]))
    seen = alone.registration
    assert ((seen.error[:, 1] > 1.7) & (seen.error[:, 1] < 4)).all()
    assert not seen.found[:, 1].any() and not alone.confirmed.any()
    said = looked(monkeypatch, pyramid, still(2), Neighbours([seen.points]))
    assert said.registration.found[:, 1].all() and said.confirmed[:, 1].all()


@pytest.mark.parametrize("by_neighbours", [True, False])
@pytest.mark.parametrize("beyond", [-20.0, 4.0, 20.0])
def test_what_is_found_of_a_point_that_has_left_the_picture_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, beyond: float, by_neighbours: bool
) -> None:
    """Its surface has carried the first query this far beyond the right border in frame 2, where
    its patch is seen all the same: on its path, or where neighbours expect it."""
    pyramid = pyramid_of(texture(), texture(), texture())
    points, said = still(3, QUERIES[:1]), nobody(3, 1)
    carried = nowhere(points)
    carried[0, 2] = torch.tensor([WIDTH + beyond, 40.0])
    if by_neighbours:
        said[0, 2] = points[0, 2].clone()
        points[0, 2] = torch.tensor([130.0, 100.0])
    heard: list[Tensor] = []
    neighbours = Neighbours([said])

    def listen(*asked: Tensor) -> tuple[Expected, Expected]:
        heard.append(asked[-1].clone())
        return neighbours(*asked)

    monkeypatch.setattr(sightings_module, "expect_from_neighbours", listen)
    patches = query_patches(pyramid, torch.zeros(1).long(), QUERIES[:1], OPTIONS)
    sightings = look(pyramid, patches, points, carried, None, OPTIONS)
    believed = beyond < 8
    assert sightings.registration.found[0].tolist() == [True, True, believed]
    assert heard[0][0, 2] == (believed and not by_neighbours)
    assert heard[1][0, 2] == believed


def test_what_a_track_passes_by_is_not_found() -> None:
    """Found 2 and 4 px beside two tracks, and nowhere for the third; pictures of half the size."""
    pyramid = replace(pyramid_of(texture()), scale=torch.tensor([0.5, 0.5]))
    beside = torch.tensor([[[4.0, 0.0]], [[0.0, 8.0]], [[0.0, 0.0]]])
    seen = Registration(
        pyramid.to_picture(still(1) + beside),
        torch.eye(2).expand(3, 1, 2, 2),
        torch.ones(3, 1),
        torch.tensor([[True], [True], [False]]),
    )
    nothing = torch.zeros(3, 1).bool()
    before = Sightings(seen, nobody(1), nobody(4).view(4, 3, 1, 2), nothing)
    after = taken_by_tracks(before, pyramid, still(1))
    assert after.registration.found.tolist() == [[True], [False], [False]]


def test_looks_in_parts_are_as_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine looks, two at a time, so that parts do not end where a frame does."""
    pyramid = pyramid_of(*[texture()] * 4)
    lost = still(4) + 60.0
    together = looked(monkeypatch, pyramid, lost, Neighbours([still(4)])).registration
    monkeypatch.setattr(sightings_module, "AT_ONCE", {"cpu": 2})
    parts = looked(monkeypatch, pyramid, lost, Neighbours([still(4)])).registration
    assert together.found.all() and parts.found.all()
    torch.testing.assert_close(parts.points, together.points, atol=1e-3, rtol=0)
    torch.testing.assert_close(parts.affine, together.affine, atol=1e-4, rtol=0)


def test_half_a_patch_is_found_beside_what_hides_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    second = texture()
    x = int(QUERIES[1, 0])
    second[:, x + 6 :] = 255.0  # half a patch ends a pixel before
    pyramid = pyramid_of(texture(), second)
    points, said = still(2, QUERIES[:2]), nobody(2, 2)
    said[1, 1] = QUERIES[1]
    alone = looked(monkeypatch, pyramid, points, Neighbours([nobody(2, 2)]))
    assert alone.registration.found[:, 1].tolist() == [True, False]
    seen = looked(monkeypatch, pyramid, points, Neighbours([said]))
    assert seen.registration.found[:, 1].tolist() == [True, True]
    assert (seen.registration.points[1, 1] - QUERIES[1]).norm() < 0.05


def test_a_patch_begins_as_deformed_as_it_was_seen_last(
    monkeypatch: pytest.MonkeyPatch, tries: list[Try]
) -> None:
    """Turned by a quarter of a radian a frame: by the end more than an upright one bears."""
    turns = [0.25 * t for t in range(5)]
    pyramid = pyramid_of(*(texture(turn=turn) for turn in turns))
    middle = torch.tensor([WIDTH / 2, HEIGHT / 2])
    truth = torch.stack(
        [(QUERIES - middle) @ rotation(turn).T + middle for turn in turns], dim=1
    )
    silent = Neighbours([nobody(5)])
    first = looked(monkeypatch, pyramid, truth, silent)
    assert first.registration.found.all()
    assert (first.registration.points - truth).norm(dim=-1).max() < 0.1
    torch.testing.assert_close(
        first.registration.affine[1], torch.stack([rotation(turn) for turn in turns]),
        atol=0.03, rtol=0,
    )  # fmt: skip
    upright = still(2)
    upright[:] = truth[:, [0, 4]]
    last_alone = pyramid_of(texture(), texture(turn=turns[4]))
    lost = looked(monkeypatch, last_alone, upright, Neighbours([nobody(2)]))
    assert not lost.registration.found[:, 1].all()
    # What an earlier look has seen is where the next one goes on from.
    tries.clear()
    moved = truth.clone()
    moved[1, 4] += 2.0
    looked(monkeypatch, pyramid, moved, silent, first)
    (only,) = tries
    assert (only.frame, only.row) == (4, 1)
    torch.testing.assert_close(only.affine, first.registration.affine[1, 3])


@pytest.mark.parametrize("home", [0, 2])
def test_the_query_itself_is_seen_where_it_is(home: int) -> None:
    pyramid = pyramid_of(texture(), flat(), texture(seed=3))
    patches = query_patches(pyramid, torch.tensor([home] * 3), QUERIES, OPTIONS)
    start = still(3) + 3.0
    seen = look(pyramid, patches, start, nowhere(start), None, OPTIONS).registration
    assert torch.equal(seen.points[:, home], QUERIES)
    assert seen.found.sum(dim=1).tolist() == [1, 1, 1]
    assert seen.found[:, home].all() and (seen.error[:, home] == 0).all()


def moved_texture(shift: Tensor) -> Tensor:
    """The waves carried on by whole px, the rest of the picture gray."""
    x, y = shift.long().tolist()
    picture = flat()
    picture[max(y, 0) : HEIGHT + min(y, 0), max(x, 0) : WIDTH + min(x, 0)] = texture()[
        max(-y, 0) : HEIGHT - max(y, 0), max(-x, 0) : WIDTH - max(x, 0)
    ]
    return picture


def test_neighbours_carry_a_point_on_from_where_it_was_seen_last() -> None:
    """Only the first point is in sight in frame 0, where neighbours thus say nothing; its path is
    lost in frame 2, but not those of the points that are asked for in frame 1."""
    step = torch.tensor([12.0, 4.0])
    first = flat()
    lonely = QUERIES[0]
    x, y = lonely.long().tolist()
    first[y - 20 : y + 20, x - 20 : x + 20] = texture()[y - 20 : y + 20, x - 20 : x + 20]
    pyramid = pyramid_of(first, moved_texture(step), moved_texture(2 * step))
    angle = torch.arange(6) * 1.05
    others = lonely + 34.0 * torch.stack([angle.cos(), angle.sin()], dim=-1)
    home = torch.tensor([0] + [1] * 6)
    queries = torch.cat([lonely[None], others + step])
    truth = torch.cat([lonely[None], others])[:, None] + step * torch.arange(3.0)[:, None]
    paths = truth.clone()
    paths[0, 2] += torch.tensor([40.0, 0.0])
    patches = query_patches(pyramid, home, queries, OPTIONS)
    seen = look(pyramid, patches, paths, nowhere(paths), None, OPTIONS).registration
    assert seen.found[1:, 1:].all() and not seen.found[1:, 0].any()
    assert seen.found[0].all()
    assert (seen.points[0, 2] - truth[0, 2]).norm() < 0.1


@pytest.mark.parametrize("right", [True, False])
def test_a_point_that_its_own_surface_places_is_not_carried_along_by_another(
    monkeypatch: pytest.MonkeyPatch, tries: list[Try], right: bool
) -> None:
    """Hidden in frame 2 where its neighbours, right in frame 1 or not, say it is."""
    pyramid = pyramid_of(texture(), texture(), flat())
    likely = still(3) + (0.0 if right else 5.0)
    away = Expected(QUERIES + 20.0, torch.eye(2).repeat(3, 1, 1), torch.ones(3).bool())

    def moves(rows: Tensor, *_: object) -> tuple[Expected, Expected]:
        chosen = Expected(away.points[rows], away.affine[rows], away.agreed[rows])
        return chosen, Expected(chosen.points, chosen.affine, ~chosen.agreed)

    monkeypatch.setattr(sightings_module, "moves_of_neighbours", moves)
    seen = looked(monkeypatch, pyramid, still(3), Neighbours([likely]))
    assert seen.registration.found.tolist() == [[True, True, False]] * 3
    starts = [each.start for each in tries if each.frame == 2]
    carried = any(torch.equal(start, place) for start in starts for place in away.points)
    assert carried == (not right)
    # Who is mostly right about a point places it where its patch is not found, and nowhere else.
    placed = torch.full_like(likely, torch.nan)
    if right:
        placed[:, 2] = likely[:, 2]
    torch.testing.assert_close(seen.carried, placed, equal_nan=True)


def test_a_noisy_patch_is_found_where_neighbours_expect_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Too much noise for what a path finds alone."""
    generator = torch.Generator().manual_seed(2)
    noise = 90.0 * torch.randn(HEIGHT, WIDTH, generator=generator)
    pyramid = pyramid_of(texture(), texture() + noise)
    alone = looked(monkeypatch, pyramid, still(2), Neighbours([nobody(2)])).registration
    said = looked(monkeypatch, pyramid, still(2), Neighbours([still(2)])).registration
    assert said.found[:, 1].sum() > alone.found[:, 1].sum()
    assert (said.points - still(2)).norm(dim=-1)[said.found].max() < 1.0


def test_a_candidate_is_what_was_seen_or_else_where_neighbours_carry_the_point() -> None:
    """In frame 1 seen, in frame 2 carried, in frame 3 neither; pictures of half the size."""
    frames, scale = 4, torch.tensor([0.5, 0.5])
    pyramid = replace(pyramid_of(texture()), scale=scale)
    seen, carried = still(frames) / 2 + 1.0, nobody(frames)
    carried[:, 2] = QUERIES / 2 + 3.0
    found = torch.tensor([True, True, False, False]).expand(3, frames)
    error = torch.tensor([0.0, 0.5, 3.0])[:, None].expand(3, frames)
    error = torch.where(found, error, torch.inf)  # as where nothing was found
    registration = Registration(seen, torch.eye(2).expand(3, frames, 2, 2), error, found)
    nothing, tried = torch.zeros(3, frames).bool(), nobody(4 * frames).view(4, 3, frames, 2)
    sightings = Sightings(registration, carried, tried, nothing)
    before = Candidates(
        QUERIES[:, None], torch.full((3, 1), 4.0), torch.full((3, 1), 1.0), torch.zeros(3, 1).bool()
    )
    places = with_sightings([before] * frames, pyramid, sightings, OPTIONS)
    assert [place.sure.tolist()[0] for place in places] == [
        [False, True], [False, True], [False, True], [False, False],
    ]  # fmt: skip
    torch.testing.assert_close(places[1].points[:, 1], pyramid.to_working(seen[:, 1]))
    torch.testing.assert_close(places[2].points[:, 1], pyramid.to_working(carried[:, 2]))
    assert all(torch.equal(place.points[:, 0], QUERIES) for place in places)
    # A path that has nowhere else to go must not be led to NaN.
    assert all(place.variance.isfinite().all() for place in places)
    # The surer, the better; none is dearer than the best match of features.
    price = places[1].price[:, 1]
    assert -OPTIONS.reward <= price[0] < -3 and -2 < price[1] < -0.5 and price[2] == 0
    known = replace(sightings, confirmed=~nothing)
    told = with_sightings([before] * frames, pyramid, known, OPTIONS)[1].price[:, 1]
    assert told[0] == -OPTIONS.reward and told[1] < price[1] - 1
    assert places[2].price[:, 1].eq(0.0).all()
    assert places[3].price[:, 1].eq(NEVER).all()
    # Px of the smaller picture are twice as many working px.
    spread = 2 * torch.hypot(error[:, 1], torch.tensor(OPTIONS.error))
    assert places[1].variance[:, 1].sqrt().allclose(spread)
    # Two px of the smaller picture are four working px.
    assert places[2].variance[:, 1].sqrt().allclose(torch.tensor(4.0))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("known", [True, False])
def test_behind_a_gap_patches_begin_as_deformed_as_they_were_known_to_be(
    known: bool, again: bool
) -> None:
    turn, middle = 1.2, torch.tensor([WIDTH / 2, HEIGHT / 2])
    pyramid = pyramid_of(texture(), texture(turn=turn))
    query = torch.tensor([[90.0, 70.0]])
    place = (query - middle) @ rotation(turn).T + middle
    home = torch.zeros(1, dtype=torch.long)
    patches = query_patches(pyramid, home, query, OPTIONS)
    paths = torch.stack([query, place], dim=1)
    nothing = torch.full((1, 2), torch.nan)
    recalled = Recalled(
        Course(
            paths, torch.eye(2).repeat(1, 2, 1, 1), nothing, nothing, nothing, nobody(2, 1), nothing
        ),
        {}, nothing, 1, nothing[:, 0], nothing[:, 0],
    )  # fmt: skip
    if known:
        recalled.course.affine[:, 1] = rotation(turn)
    before = None
    if again:  # the first look is elsewhere
        far = paths + torch.tensor([[0.0, 0.0], [-40.0, 30.0]])
        before = look(pyramid, patches, far, nowhere(far), None, OPTIONS, recalled)
        assert not before.registration.found[0, 1]
    found = look(pyramid, patches, paths, nowhere(paths), before, OPTIONS, recalled).registration
    assert bool(found.found[0, 1]) == known
    if known:
        torch.testing.assert_close(found.points[0, 1], place[0], rtol=0, atol=0.2)
