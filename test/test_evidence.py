"""What features say of places, where the right answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from known_scene import KnownBackbone
from slow_sampling import slow_sample
from torch import Tensor

from dino_tracker_ros.tracking.evidence import Evidence, FeatureMap, feature_map
from dino_tracker_ros.tracking.feature_frames import FeatureFrames, feature_frames
from dino_tracker_ros.tracking.hypotheses import NEVER
from dino_tracker_ros.tracking.matching import unit_length
from dino_tracker_ros.tracking.settings import HypothesesSettings
from dino_tracker_ros.tracking.token_grid import TokenGrid

HEIGHT, WIDTH = 98, 140
MOTION = [[0.0, 0.0], [9.0, 5.0], [-6.0, 13.0]]
OPTIONS = HypothesesSettings(
    candidates=5, match_error=0.5, temperature=0.02, way_back=0.5, most_price=1e3
)


pytestmark = pytest.mark.usefixtures("one_thread")


Maps = tuple[FeatureMap, FeatureMap]


def scene_maps(scale: float = 1.0, stride: int = 14) -> Maps:
    """What finds and what places in a scene whose features tell places apart."""
    backbone = KnownBackbone(MOTION, stride)
    finding = TokenGrid(HEIGHT, WIDTH, 14, stride)
    placing = TokenGrid(HEIGHT, WIDTH, 14, stride, scale)

    def features(grid: TokenGrid) -> Tensor:
        maps = [backbone.at(t, grid.centres().reshape(-1, 2)).T for t in range(len(MOTION))]
        return torch.stack(maps)

    return feature_map(features(finding), finding), feature_map(features(placing), placing)


def scene_queries() -> Tensor:
    y, x = torch.meshgrid(torch.arange(25.0, 75, 11), torch.arange(25.0, 120, 13), indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def evidence_of(maps: Maps, frames: Tensor, points: Tensor) -> Evidence:
    return Evidence(*maps, all_known(maps[0]), frames, points, OPTIONS)


def all_known(features: FeatureMap) -> FeatureFrames:
    return feature_frames([True] * len(features.units), torch.device("cpu"))


def priced(evidence: Evidence, frame: int, points: Tensor) -> Tensor:
    """Prices [N, M] of points [N, M, 2] of a frame, M for every query."""
    rows = torch.arange(len(points)).repeat_interleave(points.shape[1])
    return evidence.price(frame, rows, points.flatten(0, 1)).view(points.shape[:2])


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("stride", [14, 7])
def test_a_candidate_is_at_the_true_place_and_costs_nothing(scale: float, stride: int) -> None:
    maps, queries = scene_maps(scale, stride), scene_queries()
    spacing = maps[1].grid.spacing
    evidence = evidence_of(maps, torch.zeros(len(queries)).long(), queries)
    for t, motion in enumerate(MOTION):
        truth = queries + torch.tensor(motion)
        found = evidence.candidates(t)
        error = (found.points - truth[:, None]).norm(dim=-1)
        nearest = error.argmin(dim=1)
        rows = torch.arange(len(queries))
        # Half a diagonal of the placing tokens at worst; a soft maximum does better.
        assert error[rows, nearest].max() < 0.71 * spacing
        assert error[rows, nearest].median() < 0.4 * spacing
        # The cheapest one is there too.
        cheapest = error[rows, found.price.argmin(dim=1)]
        assert (cheapest < 0.71 * spacing).float().mean() > 0.9
        assert found.price.min(dim=1).values.median() < 0.5
        there = evidence.price(t, rows, truth)
        away = evidence.price(t, rows, truth + torch.tensor([25.0, 0.0]))
        assert there.median() < 0.5
        assert (away > there + 3).all()
        assert (found.variance == (0.5 * spacing) ** 2).all()
        assert not found.sure.any()


def test_candidates_cost_what_they_are_asked_for() -> None:
    """A candidate's price is the price of its place."""
    maps, queries = scene_maps(1.5), scene_queries()
    evidence = evidence_of(maps, torch.zeros(len(queries)).long(), queries)
    found = evidence.candidates(1)
    real = found.price < NEVER
    torch.testing.assert_close(priced(evidence, 1, found.points)[real], found.price[real])


# ---- tokens of nothing in common: prices by hand ----

GRID = TokenGrid(70, 98)
TRUE, TWIN = 2 * GRID.cols + 1, 3 * GRID.cols + 5


def plain_maps(frames: int = 2) -> Tensor:
    """Every token unlike all others, the same in every frame."""
    return torch.eye(GRID.rows * GRID.cols).repeat(frames, 1, 1)


def at_token(token: int) -> Tensor:
    return GRID.centres().reshape(-1, 2)[token]


def asked(
    maps: Tensor, settings: HypothesesSettings = OPTIONS, home: int = 0
) -> dict[int, float]:
    """Prices in frame 1 of the tokens that look like token TRUE of frame `home`."""
    query = at_token(TRUE)[None]
    features = feature_map(maps, GRID)
    found = Evidence(
        features, features, all_known(features), torch.tensor([home]), query, settings
    ).candidates(1)
    centres = GRID.centres().reshape(-1, 2)
    prices = {}
    for point, price in zip(found.points[0], found.price[0].tolist()):
        distance = (centres - point).norm(dim=-1)
        if distance.min() < 0.01:
            prices[int(distance.argmin())] = price
    return prices


def leaning(maps: Tensor, frame: int, token: int, share: float) -> None:
    """Makes a token's cosine with token TRUE `share`."""
    own = maps[frame, :, token].clone()
    like = torch.zeros_like(own)
    like[TRUE] = 1.0
    maps[frame, :, token] = share * like + (1 - share**2) ** 0.5 * own


@pytest.mark.parametrize("most", [2.0, 8.0])
def test_prices_are_cut_and_nothing_else(most: float) -> None:
    maps, queries = scene_maps(), scene_queries()
    frames = torch.arange(len(queries)) % len(MOTION)
    anywhere = torch.rand(len(queries), 20, 2) * torch.tensor([WIDTH - 1, HEIGHT - 1])
    known = all_known(maps[0])
    whole, cut = (
        priced(Evidence(*maps, known, frames, queries, options), 1, anywhere)
        for options in (replace(OPTIONS, most_price=limit) for limit in (1e3, most))
    )
    assert (whole > most).any() and (whole < most).any()
    torch.testing.assert_close(cut, whole.clamp(max=most))


def test_the_second_best_costs_the_cosine_it_lacks() -> None:
    maps = plain_maps()
    leaning(maps, 1, TWIN, 0.8)
    prices = asked(maps, HypothesesSettings(temperature=0.02, way_back=0.0, most_price=1e3))
    assert prices[TRUE] == pytest.approx(0, abs=1e-3)
    assert prices[TWIN] == pytest.approx(0.2 / 0.02, rel=1e-3)
    cut = asked(maps, HypothesesSettings(temperature=0.02, way_back=0.0, most_price=4.0))
    assert cut[TWIN] == 4.0


def test_a_track_leads_by_what_speaks_against_the_best_match_elsewhere() -> None:
    maps = plain_maps(3)
    leaning(maps, 1, TWIN, 0.8)
    options = HypothesesSettings(temperature=0.02, way_back=0.0, most_price=20.0)
    features = feature_map(maps, GRID)
    query = at_token(TRUE).repeat(3, 1)
    evidence = Evidence(
        features, features, all_known(features), torch.zeros(3).long(), query, options
    )
    beside = at_token(TRUE) + torch.tensor([3.0, 0.0])
    tracks = torch.stack([at_token(TRUE), at_token(TWIN), beside])[:, None].repeat(1, 3, 1)
    wanted = torch.tensor([[0, 1, 1], [0, 1, 1], [0, 1, 0]]).bool()
    lead = evidence.lead(tracks, wanted)
    assert lead[0, 1] == pytest.approx(10, rel=1e-3)  # what the twin lacks
    assert lead[1, 1] == pytest.approx(-10, rel=1e-3)
    # The best match is no rival of what is right beside it.
    assert lead[2, 1] == pytest.approx(10 - float(evidence.price(1, *here(beside))), abs=1e-3)
    # Where nothing else is alike at all, by the most that features cost; on the twin's as much.
    assert lead[0, 2] == pytest.approx(20) and lead[1, 2] == pytest.approx(-20)
    assert (lead[~wanted] == 0).all()


def here(point: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(1).long(), point[None]



def test_a_place_that_another_point_of_the_query_frame_fits_better_is_dear() -> None:
    """The twin is seen in both frames: in the query's frame it is not where the query is."""
    maps = plain_maps()
    leaning(maps, 0, TWIN, 0.8)
    leaning(maps, 1, TWIN, 0.8)
    prices = asked(maps)
    assert prices[TRUE] == pytest.approx(0, abs=1e-3)
    assert prices[TWIN] == pytest.approx(0.2 / 0.02 + 0.5 * 0.2 / 0.02, rel=1e-3)
    # What counts is the query's own frame, whichever it is.
    assert asked(torch.cat([plain_maps(1), maps[1:], maps[:1]]), home=2) == prices
    # A twin that the query's frame does not have pays only for its own lack.
    maps = plain_maps()
    leaning(maps, 1, TWIN, 0.9)
    assert asked(maps)[TWIN] == pytest.approx(0.1 / 0.02, rel=1e-3)


def test_a_point_behind_something_loses_nothing() -> None:
    """Where even the best match is bad it is not dear: the way back alone speaks against it."""
    maps = plain_maps()
    maps[1] = maps[1].roll(7, dims=0)  # every token is at another place
    maps[1, :, (TRUE + 20) % maps.shape[2]] = maps[1, :, 0]
    prices = asked(maps, HypothesesSettings(way_back=0.0))
    assert min(prices.values()) == 0.0


def test_there_may_be_fewer_matches_than_are_asked_for() -> None:
    maps, query = plain_maps(), at_token(TRUE)[None]
    # One hill in the whole map.
    centres = GRID.centres().reshape(-1, 2)
    hill = (-(centres - at_token(TRUE)).square().sum(dim=-1) / 4e3).exp()
    maps[1] = 0.0
    maps[1, TRUE], maps[1, 0] = hill, (1 - hill.square()).sqrt()
    features = feature_map(maps, GRID)
    found = evidence_of((features, features), torch.tensor([0]), query).candidates(1)
    assert found.price.shape == (1, 5)
    assert (found.price < NEVER).sum() == 1
    assert found.points.isfinite().all()


def test_a_map_of_four_equal_tokens_is_survived() -> None:
    tiny = TokenGrid(1, 1)
    alike = torch.ones(2, 3, tiny.rows * tiny.cols) / 3**0.5
    features = feature_map(alike, tiny)
    found = evidence_of((features, features), torch.tensor([0]), torch.zeros(1, 2)).candidates(1)
    assert found.price.tolist() == [[pytest.approx(0, abs=1e-3)] * 4]
    assert found.points.isfinite().all()


# ---- the border, and several queries ----


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_points_on_the_border_are_found_there(scale: float) -> None:
    maps = scene_maps(scale)
    xs, ys = [-0.5, 0.0, 70.0, WIDTH - 1.0], [-0.5, 0.0, 40.0, HEIGHT - 1.0]
    queries = torch.tensor([[x, y] for x in xs for y in ys])
    evidence = evidence_of(maps, torch.zeros(len(queries)).long(), queries)
    found = evidence.candidates(0)
    error = (found.points - queries[:, None]).norm(dim=-1).min(dim=1).values
    assert error.max() < 0.71 * maps[1].grid.spacing
    assert evidence.price(0, torch.arange(len(queries)), queries).max() < 3
    # Nothing is seen far outside the picture.
    outermost = maps[1].grid.centres().reshape(-1, 2).amax(dim=0)
    assert (found.points >= -0.5 - 1e-3).all() and (found.points <= outermost + 1e-3).all()


def test_queries_of_several_frames_are_judged_together_as_alone() -> None:
    maps, queries = scene_maps(1.5), scene_queries()[:9]
    frames = torch.tensor([0, 1, 2, 2, 1, 0, 0, 2, 1])
    queries = queries + torch.tensor(MOTION)[frames]
    together = evidence_of(maps, frames, queries)
    whole = together.candidates(1)
    places = queries[:, None] + torch.tensor([[0.0, 0.0], [8.0, -5.0]])
    prices = priced(together, 1, places)
    for n in range(len(queries)):
        alone = evidence_of(maps, frames[n : n + 1], queries[n : n + 1])
        found = alone.candidates(1)
        torch.testing.assert_close(found.points, whole.points[n : n + 1])
        torch.testing.assert_close(found.price, whole.price[n : n + 1], atol=1e-3, rtol=1e-3)
        price = priced(alone, 1, places[n : n + 1])
        torch.testing.assert_close(price, prices[n : n + 1], atol=1e-3, rtol=1e-3)


def slow_cosines(
    maps: Maps, home: int, query: Tensor, frame: int, point: Tensor
) -> tuple[float, float, float]:
    """From the features at a place: how well finding fits, both maps fit, and the best token of
    the query's frame fits."""
    values = []
    for which in maps:
        tokens = which.units.double().unflatten(2, (which.grid.rows, which.grid.cols))
        there = unit_length(slow_sample(tokens[frame], *point.tolist(), which.grid), dim=0)
        own = unit_length(slow_sample(tokens[home], *query.tolist(), which.grid), dim=0)
        values.append((float(there @ own), float((there @ which.units[home].double()).max())))
    (finding, back), (placing, _) = values
    return finding, 0.75 * finding + 0.25 * placing, back


def test_prices_of_some_rows_in_any_order_are_the_slow_ones() -> None:
    maps, queries = scene_maps(1.5), scene_queries()[:6]
    frames = torch.tensor([0, 2, 1, 0, 2, 2])
    queries = queries + torch.tensor(MOTION)[frames]
    evidence = evidence_of(maps, frames, queries)
    rows = torch.tensor([4, 0, 4, 5, 1, 1, 0, 4])
    generator = torch.Generator().manual_seed(0)
    moved = torch.tensor(MOTION)[1] - torch.tensor(MOTION)[frames[rows]]
    places = queries[rows] + moved + 12 * torch.randn(len(rows), 2, generator=generator)
    expected = []
    for row, place in zip(rows.tolist(), places, strict=True):
        home, query = int(frames[row]), queries[row]
        best = max(
            slow_cosines(maps, home, query, 1, point)[1]
            for point in evidence.candidates(1).points[row]
        )
        finding, likeness, back = slow_cosines(maps, home, query, 1, place)
        lack = max(0.0, best - likeness) + OPTIONS.way_back * max(0.0, back - finding)
        expected.append(min(lack / OPTIONS.temperature, OPTIONS.most_price))
    assert max(expected) > 5 and min(expected) < 3
    assert evidence.price(1, rows, places).tolist() == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert len(evidence.price(1, rows[:0], places[:0])) == 0


def test_a_frame_without_features_says_nothing_and_its_neighbours_speak_for_it() -> None:
    maps, queries = scene_maps(), scene_queries()
    rows = torch.arange(len(queries))
    homes = torch.zeros_like(rows)
    without = Evidence(
        *(replace(each, units=each.units[::2], products=each.products[::2]) for each in maps),
        feature_frames([True, False, True], torch.device("cpu")),
        homes,
        queries,
        OPTIONS,
    )
    whole = evidence_of(maps, homes, queries)
    wrong = queries + torch.tensor([25.0, 0.0])
    assert (without.candidates(1).price == NEVER).all()
    assert (without.price(1, rows, wrong) == 0).all()
    for frame in (0, 2):  # each stands for a frame and a half
        expected, found = whole.candidates(frame), without.candidates(frame)
        torch.testing.assert_close(found.points, expected.points)
        possible = expected.price < NEVER
        assert torch.equal(found.price < NEVER, possible)
        torch.testing.assert_close(found.price[possible], 1.5 * expected.price[possible])
        expected = whole.price(frame, rows, wrong)
        assert expected.median() > 1
        torch.testing.assert_close(without.price(frame, rows, wrong), 1.5 * expected)
    tracks = torch.stack([queries, queries, wrong], dim=1)
    everywhere = torch.ones(len(queries), 3, dtype=torch.bool)
    lead, expected = (each.lead(tracks, everywhere) for each in (without, whole))
    torch.testing.assert_close(lead[:, ::2], expected[:, ::2])
    assert (lead[:, 1] == 0).all()
