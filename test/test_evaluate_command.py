"""dino-tracker evaluate: what it finds, what it writes, and that no input harms another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_files import write_track_bag
from tracker_double import VELOCITY, TrackerDouble

from dino_tracker_ros import cli
from dino_tracker_ros.evaluation import baselines, suite
from dino_tracker_ros.evaluation.bags.tracks import write_tracks
from dino_tracker_ros.evaluation.bags.writer import new_bag
from dino_tracker_ros.evaluation.report.results import load_results
from dino_tracker_ros.evaluation.tracks_file import save_tracks
from dino_tracker_ros.tracking.clip import Frame
from dino_tracker_ros.tracking.settings import Settings, preset
from dino_tracker_ros.tracking.tracks import Tracks

WIDTH, HEIGHT, T = 96, 64, 8
QUERIES = np.array([[0, 20, 10], [5, 50, 40]], np.float32)  # (t, x, y)


def make_clip(folder: Path) -> Path:
    """A clip folder whose points move as the double says; one is hidden in the last frame."""
    (folder / "frames").mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(20, 255, (T, HEIGHT, WIDTH, 3), np.uint8)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / "frames" / f"{index:04d}.png"), picture)
    occluded = np.zeros((len(QUERIES), T), bool)
    occluded[1, T - 1] = True
    np.savez(
        folder / "gt.npz", queries=QUERIES[:, [0, 2, 1]], points=true_points(), occluded=occluded,
        evaluate=np.ones_like(occluded),
    )  # fmt: skip
    return folder


def true_points() -> np.ndarray:
    steps = np.arange(T, dtype=np.float32) - QUERIES[:, :1]
    return (QUERIES[:, None, 1:] + steps[..., None] * VELOCITY).astype(np.float32)


def true_tracks(stamps: np.ndarray) -> Tracks:
    shape = (len(QUERIES), T)
    return Tracks(
        QUERIES, true_points(), np.zeros(shape, bool), np.ones(shape, np.float32), stamps, WIDTH,
        HEIGHT,
    )  # fmt: skip


def folder_stamps() -> np.ndarray:
    return np.array([round(t * 1e9 / 30) for t in range(T)], np.int64)


class Interrupting(TrackerDouble):
    """Is interrupted in the second clip that is fitted."""

    fitted = 0

    def fit(self, *arguments: object) -> object:
        Interrupting.fitted += 1
        if Interrupting.fitted == 2:
            raise KeyboardInterrupt
        return super().fit(*arguments)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path) -> Run:
    """Runs the command with a double in the tracker's place, also in its processes."""
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"for the hash in the report")
    whole = suite.run_suite

    def run(*arguments: object, tracker: type = TrackerDouble) -> tuple[int, str, str]:
        monkeypatch.setattr(suite, "run_suite", partial(whole, make_tracker=tracker))
        fixed = ["--preset", "cpu", "--set", f"backbone.weights={weights}"]
        code = cli.main(["evaluate", *map(str, arguments), *fixed])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def scores_of(file: Path) -> dict[tuple[str, str], Mapping[str, float]]:
    """By clip and method, then by metric."""
    return {
        (clip["name"], method["name"]): {
            name: score["value"] for name, score in method["scores"].items()
        }
        for clip in json.loads(file.read_text())["clips"]
        for method in clip["methods"]
    }


# what is scored ------------------------------------------------------------------------------


def test_every_method_is_scored_on_every_clip(run, monkeypatch, tmp_path):
    def stay(frames, queries, *_: object, **__: object) -> Tracks:
        return baselines.track_static(frames, queries)

    monkeypatch.setattr(baselines, "track_raw_dino", stay)
    monkeypatch.setattr(baselines, "flows_at_hand", lambda settings: ("dis",))
    clips = [make_clip(tmp_path / name) for name in ("one", "two")]
    code, out, err = run(
        *clips, "--baselines", "--json", tmp_path / "e.json", "--seeds", 3, 4, "--jobs", 1
    )
    assert code == 0
    assert "no RAFT among the baselines" in err
    methods = [
        "DINO-Tracker, seed 3", "DINO-Tracker, seed 4", "no motion", "Lucas-Kanade", "chained DIS",
        "raw DINOv2, block 12", "raw DINOv2, block 8",
    ]  # fmt: skip
    assert len(out.splitlines()) == 1 + 3 * len(methods)  # two clips and their mean
    found = scores_of(tmp_path / "e.json")
    assert list(found) == [(clip, method) for clip in ("one", "two") for method in methods]
    ours = found["one", "DINO-Tracker, seed 3"]
    assert ours["delta_average"] == 1.0
    assert ours["occlusion_accuracy"] == pytest.approx(13 / 14)
    assert found["one", "no motion"]["delta_average"] < 0.7
    settings = json.loads((tmp_path / "e.json").read_text())["clips"][0]["settings"]
    assert settings["optimizer.iterations"] == preset("cpu").optimizer.iterations


def test_a_folder_of_clips_is_found_and_reported(run, tmp_path):
    for name in ("one", "two"):
        make_clip(tmp_path / "clips" / name)
    (tmp_path / "clips" / "notes.txt").write_text("not a clip")
    code, out, err = run(tmp_path / "clips", "--out", tmp_path / "out")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["clip", "one", "two", "mean"]
    assert str(tmp_path / "out" / "report.html") in err
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.html", "scores.json", "scores.csv", "results"}
    result = load_results(tmp_path / "out")[0][0]
    assert result.pictures
    assert result.methods[0].stages["fit"] == 1.0


def test_clips_of_one_name_are_told_apart(run, tmp_path):
    clips = [make_clip(tmp_path / site / "camera") for site in ("north", "south")]
    code, out, _ = run(*clips, clips[0])
    assert code == 0
    names = [line.split("  ")[0] for line in out.splitlines()[1:]]
    assert names == ["north, camera", "south, camera", "mean"]


def test_processes_score_as_this_one_does(run, tmp_path):
    for name in ("one", "two", "three"):
        make_clip(tmp_path / "clips" / name)
    code, _, _ = run(tmp_path / "clips", "--json", tmp_path / "1.json", "--jobs", 1)
    assert code == 0
    code, _, _ = run(tmp_path / "clips", "--json", tmp_path / "2.json", "--jobs", 2)
    assert code == 0
    one, two = scores_of(tmp_path / "1.json"), scores_of(tmp_path / "2.json")
    assert len(one) == 3
    assert one == two


@pytest.mark.parametrize("kind", ["npz", "bag"])
def test_recorded_tracks_are_scored_without_a_tracker(run, tmp_path, kind):
    clip = make_clip(tmp_path / "clip")
    recorded = tmp_path / f"recorded.{kind}"
    tracks = true_tracks(folder_stamps())
    if kind == "npz":
        save_tracks(recorded, tracks, Settings())
    else:
        pytest.importorskip("rosbags", reason="bags are written with it")
        write_track_bag(recorded, tracks, np.array([7, 9], np.uint32))

    def refuse(settings: Settings) -> TrackerDouble:
        raise AssertionError("no tracker is needed")

    code, _, _ = run(
        clip, "--tracks", recorded, "--json", tmp_path / "e.json", tracker=refuse
    )
    assert code == 0
    assert scores_of(tmp_path / "e.json")["clip", "recorded tracks"]["delta_average"] == 1.0


def test_tracks_of_another_recording_are_refused(run, tmp_path):
    save_tracks(tmp_path / "t.npz", true_tracks(folder_stamps() + 1), Settings())
    code, _, err = run(make_clip(tmp_path / "clip"), "--tracks", tmp_path / "t.npz")
    assert code == 1
    assert "8 of 8 stamps" in err


# bags ----------------------------------------------------------------------------------------


@pytest.fixture
def bag(tmp_path) -> Path:
    """A bag with two image topics and no known tracks."""
    pytest.importorskip("rosbags", reason="bags are written with it")
    return make_bag(tmp_path / "run1")


def make_bag(path: Path, topics: tuple[str, ...] = ("/left", "/right")) -> Path:
    pictures = np.random.default_rng(0).integers(20, 255, (T, HEIGHT, WIDTH, 3), np.uint8)
    with new_bag(path) as writer:
        for picture, stamp in zip(pictures, bag_stamps()):
            for topic in topics:
                writer.write_image(topic, Frame(picture, int(stamp)), "camera")
    return path


def bag_stamps() -> np.ndarray:
    return folder_stamps() + 10**18


@pytest.mark.parametrize("place", ["beside", "given", "folder"])
def test_known_tracks_of_a_bag_are_found(run, bag, tmp_path, place):
    truth = make_clip(tmp_path / "clip") / "gt.npz"
    options: list[object] = ["--truth", truth]
    if place == "beside":
        options = []
        truth.rename(tmp_path / "run1.npz")
    elif place == "folder":
        (tmp_path / "truths").mkdir()
        truth.rename(tmp_path / "truths" / "run1.npz")
        options = ["--truth", tmp_path / "truths"]
    code, _, err = run(bag, *options, "--topic", "/left", "--json", tmp_path / "e.json")
    assert code == 0, err
    assert scores_of(tmp_path / "e.json")["run1", "DINO-Tracker"]["delta_average"] == 1.0


def test_known_tracks_may_be_in_the_bag(run, tmp_path):
    pytest.importorskip("rosbags", reason="bags are written with it")
    with new_bag(tmp_path / "run1") as writer:
        for stamp in bag_stamps():
            picture = np.full((HEIGHT, WIDTH, 3), 80, np.uint8)
            writer.write_image("/image", Frame(picture, int(stamp)), "camera")
        ids = np.arange(len(QUERIES), dtype=np.uint32)
        write_tracks(writer, "/tracks", true_tracks(bag_stamps()), ids, "camera")
    code, _, err = run(tmp_path / "run1", "--json", tmp_path / "e.json")
    assert code == 0, err
    assert scores_of(tmp_path / "e.json")["run1", "DINO-Tracker"]["delta_average"] == 1.0


def test_every_topic_is_a_clip_and_the_range_counts(run, bag, tmp_path):
    write_track_bag(
        tmp_path / "other", true_tracks(bag_stamps()), np.arange(2, dtype=np.uint32)
    )
    code, out, err = run(
        bag, "--truth", tmp_path / "other", "--topic", "/left", "/right", "--end", 0.21,
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, err
    names = [line.split("  ")[0] for line in out.splitlines()[1:]]
    assert names == ["run1, /left", "run1, /right", "mean"]
    clip = load_results(tmp_path / "out")[0][0]
    assert clip.methods[0].tracks.stamps.tolist() == bag_stamps()[:7].tolist()


def test_bags_of_tracks_alone_are_passed_over_in_a_folder(run, tmp_path):
    pytest.importorskip("rosbags", reason="bags are written with it")
    folder = tmp_path / "bags"
    make_clip(tmp_path / "clip")
    make_bag(folder / "run1", topics=("/image",))
    (tmp_path / "clip" / "gt.npz").rename(folder / "run1.npz")
    write_track_bag(
        folder / "tracks1", true_tracks(bag_stamps()), np.arange(2, dtype=np.uint32)
    )
    (folder / "cut_off").mkdir()
    (folder / "cut_off" / "metadata.yaml").write_text("rosbag2_bagfile_information:")
    code, out, err = run(folder)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["clip", "run1"]
    assert "1 of 2 inputs failed" in err


def test_a_bag_without_known_tracks_says_where_they_go(run, bag, tmp_path):
    code, _, err = run(bag, "--topic", "/left")
    assert code == 1
    assert "put run1.npz" in err


# many inputs ---------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_damaged_input_loses_no_other(run, tmp_path, jobs):
    clips = [make_clip(tmp_path / "clips" / name) for name in ("bad", "good", "worse")]
    (clips[0] / "gt.npz").write_bytes(b"damaged")
    (clips[2] / "frames" / "0003.png").write_bytes(b"damaged")
    (tmp_path / "clips" / "shard.pkl").write_bytes(b"damaged")
    code, out, err = run(tmp_path / "clips", "--out", tmp_path / "out", "--jobs", jobs)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["clip", "good"]
    said = [line for line in err.splitlines() if line.startswith("dino-tracker: ")]
    assert "3 of 4 inputs failed" in said[-1]
    assert "Traceback" not in err
    results, failures = load_results(tmp_path / "out")
    assert [result.name for result in results] == ["good"]
    assert [failure.name for failure in failures] == ["bad", "shard.pkl", "worse"]
    for failure in failures:
        assert sum(failure.message in line for line in said) == 1


def test_what_is_done_is_not_done_again(run, tmp_path):
    clips = [make_clip(tmp_path / name) for name in ("one", "two")]
    out = tmp_path / "out"
    assert run(clips[0], "--out", out)[0] == 0
    first = (out / "results" / "one" / "result.json").stat().st_ino
    code, table, err = run(*clips, "--out", out)
    assert code == 0
    assert "1 of 2 inputs were done before" in err
    assert [line.split()[0] for line in table.splitlines()] == ["clip", "one", "two", "mean"]
    assert (out / "results" / "one" / "result.json").stat().st_ino == first
    assert run(*clips, "--out", out, "--overwrite")[0] == 0
    assert (out / "results" / "one" / "result.json").stat().st_ino != first


def test_a_failure_is_tried_again(run, tmp_path):
    clip = make_clip(tmp_path / "one")
    whole = (clip / "gt.npz").read_bytes()
    (clip / "gt.npz").write_bytes(b"damaged")
    assert run(clip, "--out", tmp_path / "out")[0] == 1
    (clip / "gt.npz").write_bytes(whole)
    code, table, _ = run(clip, "--out", tmp_path / "out")
    assert code == 0
    assert "one" in table
    assert not load_results(tmp_path / "out")[1]


def test_results_that_do_not_go_together_are_not_mixed(run, tmp_path):
    clips = [make_clip(tmp_path / name) for name in ("one", "two")]
    out = tmp_path / "out"
    assert run(clips[0], "--out", out)[0] == 0
    (tmp_path / "damaged.pkl").write_bytes(b"damaged")
    more = [*clips, tmp_path / "damaged.pkl"]
    code, _, err = run(*more, "--out", out, "--set", "optimizer.iterations=3")
    assert code == 2
    assert "other options or settings, such as that of 'one'" in err
    assert not load_results(out)[1]
    # Overwriting one of them would leave the other with other settings.
    assert run(clips[1], "--out", out, "--set", "optimizer.iterations=3", "--overwrite")[0] == 2
    assert run(*clips, "--out", out, "--set", "optimizer.iterations=3", "--overwrite")[0] == 0
    (clips[0] / "frames" / "0001.png").touch()
    code, _, err = run(*clips, "--out", out, "--set", "optimizer.iterations=3")
    assert code == 2
    assert "'one' from other or older files" in err


def test_ctrl_c_keeps_what_is_done(run, tmp_path):
    clips = [make_clip(tmp_path / name) for name in ("one", "two", "three")]
    Interrupting.fitted = 0
    code, _, err = run(*clips, "--out", tmp_path / "out", "--jobs", 1, tracker=Interrupting)
    assert code == 130
    assert "interrupted" in err
    assert [result.name for result in load_results(tmp_path / "out")[0]] == ["one"]
    code, _, err = run(*clips, "--out", tmp_path / "out", "--jobs", 1)
    assert code == 0
    assert "1 of 3 inputs were done before" in err


def test_ray_gives_the_same_scores(run, monkeypatch, tmp_path):
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install ray")
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))  # workers have to find the double
    clips = [make_clip(tmp_path / name) for name in ("one", "two")]
    (make_clip(tmp_path / "bad") / "gt.npz").write_bytes(b"damaged")
    code, _, err = run(
        *clips, tmp_path / "bad", "--ray", "local", "--json", tmp_path / "ray.json"
    )
    assert code == 1, err
    assert "1 of 3 inputs failed" in err
    assert run(*clips, "--json", tmp_path / "here.json")[0] == 0
    assert scores_of(tmp_path / "ray.json") == scores_of(tmp_path / "here.json")


# mistakes ------------------------------------------------------------------------------------


def mistakes(tmp_path: Path) -> dict[str, tuple[list[object], str]]:
    clip = make_clip(tmp_path / "clip")
    other = make_clip(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    save_tracks(tmp_path / "t.npz", true_tracks(folder_stamps()), Settings())
    return {
        "no such path": ([tmp_path / "nothing"], "no file or folder"),
        "nothing in it": ([tmp_path / "empty"], "no gt.npz"),
        "truth without a bag": ([clip, "--truth", clip / "gt.npz"], "are for bags"),
        "rate alone": ([clip, "--rate", 2], "the pace of --replay"),
        "parameters alone": ([clip, "--params-file", clip / "gt.npz"], "the node of --replay"),
        "no such parameters": (
            [clip, "--replay", "--out", tmp_path / "o", "--params-file", tmp_path / "p.yaml"],
            "no file of parameters",
        ),
        "rate of 0": ([clip, "--replay", "--out", tmp_path / "o", "--rate", 0], "above 0"),
        "replay without a place": ([clip, "--replay"], "needs --out"),
        "tracks and seeds": ([clip, "--tracks", tmp_path / "t.npz", "--seeds", 1], "no tracker"),
        "no such tracks": ([clip, "--tracks", tmp_path / "u.npz"], "no tracks"),
        "tracks of two": ([clip, other, "--tracks", tmp_path / "t.npz"], "for one input"),
        "no jobs": ([clip, "--jobs", 0], "at least 1"),
        "jobs on ray": ([clip, "--jobs", 2, "--ray", "auto"], "for this machine"),
        "json is there": ([clip, "--json", tmp_path / "t.npz"], "exists"),
        "out is a file": ([clip, "--out", tmp_path / "file"], "cannot be made"),
        "no such device": ([clip, "--set", "device=toaster"], "device is 'toaster'"),
    }


@pytest.mark.parametrize("name", [
    "no such path", "nothing in it", "truth without a bag", "rate alone", "rate of 0",
    "parameters alone", "no such parameters",
    "replay without a place", "tracks and seeds", "no such tracks", "tracks of two", "no jobs",
    "jobs on ray", "json is there", "out is a file", "no such device",
])  # fmt: skip
def test_mistakes_are_one_line_before_any_work(run, tmp_path, name):
    arguments, message = mistakes(tmp_path)[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_one_file_of_known_tracks_cannot_be_true_of_two_bags(run, bag, tmp_path):
    make_bag(tmp_path / "run2")
    code, _, err = run(bag, tmp_path / "run2", "--truth", make_clip(tmp_path / "clip") / "gt.npz")
    assert code == 2
    assert "cannot be true of 2 bags" in err
