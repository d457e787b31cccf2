"""The benchmarks: arithmetic on known numbers, and complete tables of a tiny tracker."""

from __future__ import annotations

import itertools
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import torch
from known_scene import quick, tiny_tracker
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))  # benchmarks are not installed

from benchmarks import (
    accuracy,
    budget,
    growth,
    machine,
    paper,
    rooms,
    soak,
    stages,
    stream,
    warm,
)
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.clips import Clip, blurred, folder_clip, grid_queries, made_clip, part
from benchmarks.growth import CURVES, QUICK_CURVES, Curve, Job, Measured, curve_exponents
from benchmarks.machine import Ceilings, measured_ceilings, written_bytes
from benchmarks.measures import Spread, fitted_exponent, slope, spread
from benchmarks.options import Options
from benchmarks.output import Result, Table, number, seconds_text, table_text
from benchmarks.paper import Piece, paper_seconds, paper_settings, paper_table
from benchmarks.runs import STAGES, WHOLE
from benchmarks.work import Work, counted, estimated_seconds, fractions
from dino_tracker_ros.evaluation.report.json_text import json_text
from dino_tracker_ros.evaluation.synthetic import make_clip, write_clip
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth
from dino_tracker_ros.tracking.errors import ClipError, SettingError
from dino_tracker_ros.tracking.settings import Settings, with_values
from dino_tracker_ros.tracking.tracker import DinoTracker
from dino_tracker_ros.tracking.tracks import Tracks

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Options:
    """Options for a clip that is tracked in a fraction of a second; no weights are needed."""
    settings = quick(
        optimizer__iterations=4, optimizer__warm_iterations=2, clip__length=5, clip__overlap=2,
        hypotheses__enabled=False, registration__enabled=False,
    )  # fmt: skip
    tiny_tracker(monkeypatch, settings)
    monkeypatch.setattr(stages, "measured_ceilings", lambda *_: Ceilings(1e12, 1e10))
    return Options(settings, frames=4, size=(96, 80), points=7, repeats=2, quick=True)


def column(table: Table, name: str) -> dict[str, str]:
    """The cells under a column's name, by their row."""
    index = list(table.lines[0]).index(name)
    return {line[0]: line[index] for line in table.lines[1:]}


# arithmetic ----------------------------------------------------------------------------------


def test_median_and_spread():
    assert spread([3.0, 1.0, 8.0]) == Spread(3.0, 1.0, 8.0, 3)
    assert spread([1.0, 2.0]).median == 1.5
    assert seconds_text(Spread(3.0, 1.0, 8.0, 3)) == "3.00 (1.00–8.00)"
    assert seconds_text(Spread(3.0, 3.0, 3.0, 1)) == "3.00"


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_found(power: float):
    sizes = [12.0, 24.0, 48.0, 96.0, 200.0]
    assert fitted_exponent(sizes, [0.3 * size**power for size in sizes]) == pytest.approx(power)


def test_an_exponent_needs_two_sizes_and_positive_values():
    assert math.isnan(fitted_exponent([5.0], [1.0]))
    assert math.isnan(fitted_exponent([5.0, 5.0], [1.0, 2.0]))
    assert math.isnan(fitted_exponent([1.0, 2.0], [0.0, 2.0]))


def test_slope_is_the_growth_per_step():
    assert slope([10.0, 12.0, 14.0]) == pytest.approx(2.0)
    assert slope([10.0]) == 0.0


def test_pieces_are_extrapolated_linearly_and_summed():
    pieces = [
        Piece("direct flow", "pairs", 6, 3.0, 1128),
        Piece("fit", "iterations", 100, 20.0, 5000),
    ]
    assert [piece.extrapolated for piece in pieces] == [564.0, 1000.0]
    assert paper_seconds(pieces) == 1564.0
    table = paper_table(quick(), pieces, ours=2.0)
    assert column(table, "extrapolated, s")["ratio"] == "782"
    assert column(table, "measured")["direct flow"] == "6 pairs"


def test_products_are_counted_and_views_are_free():
    left, right = torch.ones(8, 16), torch.ones(16, 4)
    with counted() as found:
        left.T.T.reshape(8, 16)[:, :] @ right
    assert found == [Work(2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4))]
    with counted() as found:
        torch.ones(1, 4).expand(1000, 4).sum()
    assert found[0].bytes < 100


def test_attention_is_counted_on_a_cpu_too():
    query, key, value = torch.zeros(2, 3, 10, 8), torch.zeros(2, 3, 7, 8), torch.zeros(2, 3, 7, 8)
    with counted() as found:
        torch.nn.functional.scaled_dot_product_attention(query, key, value)
    assert found[0].flops == 2 * 2 * (2 * 3) * 10 * 7 * 8


def test_gradients_are_counted_too():
    weight = torch.ones(4, 4, requires_grad=True)
    source = torch.ones(8, 4)
    with counted() as forward:
        source @ weight
    with counted() as both:
        (source @ weight).sum().backward()
    assert both[0].flops == 2 * forward[0].flops  # the source needs no gradient


def test_shares_of_the_ceilings_and_the_estimate_elsewhere():
    here, there = Ceilings(flops=100.0, bytes=50.0), Ceilings(flops=10.0, bytes=10.0)
    work = Work(flops=40.0, bytes=5.0)
    assert fractions(work, 1.0, here) == (0.4, 0.1)
    # At the other's ceiling 4 s; at the share reached here, of arithmetic, ten times as long.
    assert estimated_seconds(work, 1.0, here, there) == (4.0, 10.0)
    # Nearer to the ceiling of memory, which is a fifth there.
    assert estimated_seconds(Work(4.0, 25.0), 1.0, here, there) == (2.5, 5.0)


def test_numbers_keep_three_digits():
    values = (0.0, 0.00012, 0.1234, 1.234, 12.34, 1234.5, math.nan)
    expected = ["0.000", "1.2e-04", "0.123", "1.23", "12.3", "1,234", "-"]
    assert [number(value) for value in values] == expected


# the machine ---------------------------------------------------------------------------------


def test_writing_a_file_is_seen(tmp_path: Path):
    before = written_bytes()
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    assert written_bytes()["wchar"] - before["wchar"] >= 1_000_000


def test_a_peak_outlives_what_caused_it_until_it_is_reset():
    machine.reset_peak(CPU)
    before = machine.peak_memory(CPU).host
    large = np.ones(30_000_000)
    del large
    assert machine.peak_memory(CPU).host > before + 200
    machine.reset_peak(CPU)
    assert machine.peak_memory(CPU).host < before + 200


def test_ceilings_are_positive(monkeypatch: pytest.MonkeyPatch):
    ticks = itertools.count()
    monkeypatch.setattr(machine, "now", lambda _: float(next(ticks)))
    found = measured_ceilings(CPU, torch.float32)  # by a clock on which everything takes 1 s
    assert found == Ceilings(2 * 2048**3, 2 * 256 * 2**20)


# clips ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 16, 1024])
def test_as_many_points_as_asked_inside_the_picture(count: int):
    queries = grid_queries(97, 31, count)
    assert queries.shape == (count, 3)
    assert len(np.unique(queries, axis=0)) == count
    assert (queries[:, 0] == 0).all()
    assert (queries[:, 1:] > -0.5).all()
    assert (queries[:, 1:] < [96.5, 30.5]).all()


def test_a_part_of_a_clip_asks_where_points_first_show():
    clip = made_clip(96, 80, 12)
    cut = part(clip, 5, 11)
    assert cut.truth is not None and len(cut.frames) == 6
    assert cut.truth.points.shape[1] == 6
    for query, points, hidden in zip(cut.truth.queries, cut.truth.points, cut.truth.occluded):
        time = int(query[0])
        np.testing.assert_allclose(points[time], query[1:])
        assert not hidden[time]


def test_a_folder_is_read_with_or_without_known_tracks(tmp_path: Path):
    write_clip(make_clip(96, 80, 5), tmp_path)
    clip = folder_clip(tmp_path, 3)
    assert len(clip.frames) == 3 and clip.truth is not None
    assert clip.truth.points.shape[1] == 3
    assert folder_clip(tmp_path / "frames").truth is None


# whole benchmarks ----------------------------------------------------------------------------


def test_stages_have_complete_tables(tiny: Options):
    result = stages.benchmark(tiny)
    table = result.tables[0]
    assert list(column(table, "seconds")) == [*STAGES, WHOLE]
    assert all(column(table, "seconds").values())
    assert {line[0] for line in result.tables[1].lines} >= {"iterations", "δ_avg", "AJ"}
    for stage in ("features", "best_buddies", "fit", "track"):
        assert result.numbers["work"][stage].flops > 0, stage
        assert column(table, "Orin, s")[stage]
    assert column(table, "Orin, s")["flow"] == ""  # OpenCV's
    seconds = result.numbers["seconds"]
    assert seconds[WHOLE].count == 2
    assert seconds[WHOLE].high >= max(seconds[stage].low for stage in STAGES)


def test_the_papers_pipeline_runs_beside_ours(tiny: Options):
    values = {"flow.method": "dis", "delta_dino.width": "4", "backbone.stride": "14"}
    options = replace(
        tiny, baseline=True, baseline_values=values, baseline_iterations=1, baseline_frames=3
    )
    result = stages.benchmark(options)
    pieces = {piece.name: piece for piece in result.numbers["paper"]["pieces"]}
    needed = {name: (piece.done, piece.needed) for name, piece in pieces.items()}
    assert needed == {
        "features": (3, 4),
        "flow between neighbours": (2, 3),
        "direct flow": (3, 6),
        "best buddies": (3, 6),
        "fit, first phase": (10, 5000),
        "fit, second phase": (20, 5000),
        "tracks": (3, 4),
    }
    assert all(piece.seconds > 0 for piece in pieces.values())
    assert result.numbers["seconds"][WHOLE].count == 2
    assert "ratio" in column(result.tables[-1], "extrapolated, s")


def test_the_baseline_is_as_published_but_for_what_was_at_hand(tiny: Options):
    settings = paper_settings(tiny)
    assert settings.optimizer.iterations == 10_000
    assert settings.trajectories.direct_flow == "all"
    assert settings.delta_dino.width == 64
    assert settings.backbone.block == tiny.settings.backbone.block
    chosen = replace(tiny, baseline_values={"backbone.block": "2"})
    assert paper_settings(chosen).backbone.block == 2
    single = replace(tiny, baseline_values={"loss.self_supervised_start": "1.0"})
    with pytest.raises(SettingError, match="both phases"):
        paper.time_paper(single, made_clip(96, 80, 2).frames, grid_queries(96, 80, 1))


def test_warm_start_is_compared_with_two_cold_ones(tiny: Options):
    result = warm.benchmark(tiny)
    (table,) = result.tables
    assert column(table, "iterations") == {warm.WARM: "2", warm.COLD: "4", warm.SHORT: "2"}
    assert all(column(table, "AJ").values())
    assert len(result.numbers["runs"][warm.WARM]) == 2


def test_too_few_frames_for_two_clips_are_refused(tiny: Options):
    with pytest.raises(ClipError, match="overlap"):
        warm.benchmark(replace(tiny, frames=2))


def test_budgets_end_the_fit_whatever_the_iterations(tiny: Options):
    result = budget.benchmark(replace(tiny, repeats=1))
    (table,) = result.tables
    assert list(column(table, "iterations")) == ["0.5", "1"]
    assert all(int(count) > 4 for count in column(table, "iterations").values())
    assert len(result.charts) == 1


def test_points_that_come_later_are_scored_apart(tiny: Options, monkeypatch: pytest.MonkeyPatch):
    def half_perfect(tracker: DinoTracker, queries: NDArray[np.float32]) -> Tracks:
        """The known tracks, but lost where points are asked for later."""
        truth = clips[-1].truth
        assert truth is not None
        np.testing.assert_array_equal(queries, truth.queries)
        lost = 100.0 * (queries[:, 0] > 0)[:, None, None]
        return Tracks(
            queries, truth.points + lost.astype(np.float32), truth.occluded,
            np.ones_like(truth.occluded, np.float32), np.arange(30), 96, 80,
        )  # fmt: skip

    clips: list[Clip] = []

    def cut(*arguments: Any) -> Clip:
        clips.append(part(*arguments))
        return clips[-1]

    monkeypatch.setattr(accuracy, "part", cut)
    monkeypatch.setattr(accuracy, "warm_up", lambda *_: None)
    monkeypatch.setattr(DinoTracker, "track", half_perfect)
    table = accuracy.benchmark(replace(tiny, frames=30)).tables[0]
    assert [clip.frames[0].stamp for clip in clips] == [made_clip(96, 80, 30).frames[24].stamp] * 2
    rows = {(line[0], line[1]): line[2:] for line in table.lines[1:]}
    assert set(rows) == {
        (f"{pictures}, {when}", clip)
        for pictures in ("sharp", "blurred")
        for when in ("first frame", "later")
        for clip in ("seed 1", "seed 2", "mean")
    }
    for (when, _), (points, found, *_rest) in rows.items():
        assert int(points) > 0
        assert found == ("100.0" if when.endswith("first frame") else "0.0")


def test_points_of_the_plain_wall_are_scored_apart(
    tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [rooms.make_room(96, 80, 12, seed) for seed in (1, 2)]

    def lost_on_the_wall(tracker: DinoTracker, queries: NDArray[np.float32]) -> Tracks:
        room = next(r for r in made if np.array_equal(_truth(r.clip).queries, queries))
        truth = _truth(room.clip)
        lost = 100.0 * room.plain[:, None, None]
        return Tracks(
            queries, truth.points + lost.astype(np.float32), truth.occluded,
            np.ones_like(truth.occluded, np.float32), np.arange(12), 96, 80,
        )  # fmt: skip

    monkeypatch.setattr(rooms, "warm_up", lambda *_: None)
    monkeypatch.setattr(DinoTracker, "track", lost_on_the_wall)
    table = rooms.benchmark(replace(tiny, frames=12)).tables[0]
    rows = {(line[0], line[1]): line[2:4] for line in table.lines[1:]}
    for k, room in enumerate(made, 1):
        plain = int(room.plain.sum())
        assert 0 < plain < len(room.plain)
        assert rows["plain wall", f"seed {k}"] == [str(plain), "0.0"]
        assert rows["all else", f"seed {k}"] == [str(len(room.plain) - plain), "100.0"]
    assert rows["plain wall", "mean"][1] == "0.0" and len(rows) == 6


def test_what_is_seen_of_a_room_goes_with_its_known_tracks() -> None:
    room = rooms.make_room(256, 192, 24, seed=3)
    truth = _truth(room.clip)
    again = rooms.make_room(256, 192, 24, seed=3)
    assert all(
        np.array_equal(one.image, other.image)
        for one, other in zip(room.clip.frames, again.clip.frames, strict=True)
    )

    def apart(shift: float) -> float:
        """Median change of colour since the query where points are in sight."""
        changes = []
        for n in np.flatnonzero(~room.plain):
            here = _colour(room.clip, int(truth.queries[n, 0]), truth.queries[n, 1:])
            for t in np.flatnonzero(~truth.occluded[n]):
                there = _colour(room.clip, int(t), truth.points[n, t] + shift)
                changes.append(np.abs(there - here).mean())
        return float(np.median(changes))

    assert apart(0) < 8 < apart(10) / 2
    hidden = truth.occluded & (truth.points > 4).all(2) & (truth.points < (251, 187)).all(2)
    assert hidden.any(axis=1).sum() > 5


def _truth(clip: Clip) -> GroundTruth:
    assert clip.truth is not None
    return clip.truth


def _colour(clip: Clip, frame: int, place: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean over 3x3 px around a place."""
    image = clip.frames[frame].image
    x, y = place.round().astype(int).clip(1, (image.shape[1] - 2, image.shape[0] - 2))
    return image[y - 1 : y + 2, x - 1 : x + 2].astype(float).mean(axis=(0, 1))


def test_streams_are_tracked_whole_and_in_clips(
    tiny: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def known(frames: list[Any], queries: Any, settings: Settings, tracker: DinoTracker) -> Tracks:
        """The known tracks, lost where no keyframe is kept."""
        assert tracker.settings == settings
        asked.append((settings.clip.length, settings.clip.keyframes))
        truth = made_clip(96, 80, 20).truth
        assert truth is not None
        lost = 100.0 * (settings.clip.keyframes == 0)
        return Tracks(
            queries, truth.points + np.float32(lost), truth.occluded,
            np.ones_like(truth.occluded, np.float32), np.arange(20), 96, 80,
        )  # fmt: skip

    monkeypatch.setattr(stream, "warm_up", lambda *_: None)
    monkeypatch.setattr(stream, "track_frames", known)
    settings = with_values(tiny.settings, {"clip.length": 8, "clip.overlap": 3})
    options = replace(tiny, settings=settings, frames=20, repeats=1)
    table = stream.benchmark(options).tables[0]
    assert asked == [(20, 8), (8, 8), (8, 0)]
    assert {line[0]: line[2] for line in table.lines[1:]} == {
        "in one piece": "100.0",
        "in clips of 8, 8 keyframes": "100.0",
        "in clips of 8, none": "0.0",
    }


def test_a_blurred_clip_shows_the_same_points_less_clearly():
    sharp = made_clip(96, 80, 4)
    worn = blurred(sharp, seed=1)
    assert worn.truth is sharp.truth
    again, other = blurred(sharp, seed=1), blurred(sharp, seed=2)
    for t, frame in enumerate(worn.frames):
        before = sharp.frames[t]
        assert frame.stamp == before.stamp
        assert frame.image.dtype == np.uint8 and frame.image.shape == before.image.shape
        np.testing.assert_array_equal(frame.image, again.frames[t].image)
        assert (frame.image != other.frames[t].image).any()
        # Colours stay where they were, and nothing is moved by a pixel.
        assert np.abs(frame.image.mean(axis=(0, 1)) - before.image.mean(axis=(0, 1))).max() < 3
        low, high = (cv2.GaussianBlur(f.image.mean(axis=2), (0, 0), 4) for f in (before, frame))
        (x, y), _ = cv2.phaseCorrelate(low, high)
        assert abs(x) < 0.5 and abs(y) < 0.5
    before, after = (np.var(clip.frames[0].image[..., 1]) for clip in (sharp, worn))
    assert after < before


def test_a_soak_tells_memory_and_what_was_written(tiny: Options, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(soak, "QUICK_CLIPS", 4)
    monkeypatch.setattr(soak, "SETTLING", 2)
    result = soak.benchmark(tiny)
    assert set(result.numbers["megabytes"]) == {"reset", "sliding"}
    assert {len(found) for found in result.numbers["megabytes"].values()} == {soak.QUICK_CLIPS}
    assert set(result.numbers["written_bytes"]["sliding"]) == {"wchar", "write_bytes"}
    assert len(result.tables[0].lines) == 3


def test_growth_measures_every_point_and_fits_known_exponents(
    tiny: Options, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Job] = []

    def measured(settings: object, job: Job, repeats: int) -> Measured:
        asked.append(job)
        taken = 1e-3 * job.points * job.frames**2
        return Measured({name: spread([taken]) for name in (*STAGES, WHOLE)}, 2.0 * job.frames)

    monkeypatch.setattr(growth, "measured_apart", measured)
    result = growth.benchmark(tiny)
    assert asked == [job for curve in QUICK_CURVES for job in curve.jobs()]
    frames, _, tracks = (table.lines[-2:] for table in result.tables)
    assert frames[0][0] == "exponent" and frames[0][1] == frames[1][1] == "2.00"
    assert frames[0][-1] == "1.00"
    assert tracks[0][1] == "1.00"
    assert tracks[0][-1] == "0.00"  # memory does not know the tracks here
    assert len(result.charts) == 6
    asked.clear()
    assert len(growth.benchmark(replace(tiny, curves=("tracks",))).tables) == 1
    assert asked == QUICK_CURVES[2].jobs()


def test_growth_is_measured_over_the_ranges_that_were_promised():
    assert {curve.name: curve.values for curve in CURVES} == {
        "frames": (12, 24, 48, 96, 200),
        "size": (240, 360, 480, 720),
        "tracks": (16, 64, 256, 1024, 4096, 16384),
    }
    assert Job(1, 480, 1).size == (854, 480)


def test_sizes_grow_by_their_pixels():
    curve = Curve("size", "pixels", "lines", (120, 240), Job(2, 0, 5))
    taken = [
        Measured({name: spread([seconds]) for name in (*STAGES, WHOLE)}, 1.0)
        for seconds in (1.0, 4.0)
    ]
    whole, last = curve_exponents(curve, taken)[WHOLE]
    assert whole == last == pytest.approx(1.0, abs=0.01)


# output --------------------------------------------------------------------------------------


def test_json_and_plot_can_be_read(tiny: Options, tmp_path: Path):
    from benchmarks.output import JSON_NAME, PLOT_NAME, write_results

    results = {"budget": budget.benchmark(replace(tiny, repeats=1))}
    write_results(tmp_path, {"preset": "cpu"}, results)
    found = json.loads((tmp_path / JSON_NAME).read_text())
    assert found["about"] == {"preset": "cpu"}
    assert found["benchmarks"]["budget"]["runs"]["0.5"][0]["seconds"] > 0
    plot = ElementTree.parse(tmp_path / PLOT_NAME).getroot()
    assert plot.tag.endswith("svg")
    assert len([each for each in plot if each.tag.endswith("svg")]) == 1


def test_json_has_no_nan():
    text = json_text({"a": math.nan, "b": [Spread(1.0, math.inf, 2.0, 1)], 3: (1,)})
    assert json.loads(text) == {
        "a": None, "b": [{"median": 1.0, "low": None, "high": 2.0, "count": 1}], "3": [1]
    }  # fmt: skip


def test_tables_line_up_under_their_title():
    table = Table("Title", [["stage", "s"], ["fit", "1.00"], ["features", "12.0"]], ["a note"])
    assert table_text(table).splitlines() == [
        "Title", "stage        s", "fit       1.00", "features  12.0", "  a note"
    ]  # fmt: skip
    assert table_text(replace(table, title="")).startswith("stage")
    assert Result([table], {}).charts == ()


# the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "no benchmark 'nonsense'"),
        (["--repeats", "0"], "--repeats is 0"),
        (["--baseline-frames", "1"], "--baseline-frames is 1"),
        (["--device", "tpu"], "device is 'tpu'"),
        (["--set", "optimizer.iteration=3"], "optimizer.iteration"),
        (["--baseline-set", "flow.method"], "NAME=VALUE"),
        (["--baseline-set", "flow.metod=dis"], "flow.metod"),
        (["--clip", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_argument_is_one_clear_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert main([*arguments, "--preset", "cpu", "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_a_wrong_size_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--size", "480p"])
    assert "854x480" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "told"), [("soak", True), ("stages", False)])
def test_a_clip_without_a_part_is_told(
    name: str, told: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setitem(BENCHMARKS, name, lambda options: Result((), {}))
    arguments = [name, "--preset", "cpu", "--device", "cpu", "--clip", str(tmp_path)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert ("soak makes its own clips" in capsys.readouterr().err) == told
