"""Result folders: what was saved comes back; damage is named and keeps nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from known_result import known_result

from dino_tracker_ros.evaluation.report.results import (
    ClipResult,
    Failure,
    ResultError,
    load_result,
    load_results,
    result_folder,
    save_result,
)
from dino_tracker_ros.visualization.output import OutputError

ODD_NAMES = [
    *("a b", "a-b", "a/b", "a\\b", "../../up", "/absolute", ".", "..", ".hidden", ""),
    *("<script>alert(1)</script>", "ünïcode 走", "x" * 300, "x" * 299 + "y", "-dash", "a\nb"),
    "undecodable \udcff",
]


def assert_same(a: object, b: object) -> None:
    """Equal dataclasses, arrays by their bytes."""
    assert type(a) is type(b)
    for item in dataclasses.fields(a):  # type: ignore[arg-type]
        one, other = getattr(a, item.name), getattr(b, item.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, item.name
            np.testing.assert_array_equal(one, other, item.name)
        else:
            assert one == other, item.name


@pytest.mark.parametrize("has_occlusion", [True, False])
def test_a_result_comes_back_as_it_was_saved(tmp_path: Path, has_occlusion: bool) -> None:
    saved = known_result(has_occlusion=has_occlusion, live={"lag": 0.25})
    save_result(tmp_path, saved)

    ((loaded,), failures) = load_results(tmp_path)

    assert failures == []
    assert_same(loaded.truth, saved.truth)
    assert dict(loaded.pictures) == dict(saved.pictures)
    assert len(saved.pictures) > 10
    for name in ("name", "source", "mode", "settings", "run"):
        assert getattr(loaded, name) == getattr(saved, name)
    for one, other in zip(loaded.methods, saved.methods):
        assert_same(one.tracks, other.tracks)
        assert_same(one.counts, other.counts)
        assert (one.name, one.seconds) == (other.name, other.seconds)
        assert (one.stages, one.live) == (other.stages, other.live)


def test_a_failure_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    failure = Failure("gone", "/data/gone.bag", "it is gone: bring it back")
    save_result(tmp_path, failure)
    assert load_results(tmp_path) == ([], [failure])


def test_names_of_any_kind_get_folders_of_their_own(tmp_path: Path) -> None:
    folders = {result_folder(tmp_path, name) for name in ODD_NAMES}
    assert len(folders) == len(ODD_NAMES)
    for name in ODD_NAMES:
        save_result(tmp_path, Failure(name, "", name))
    assert {folder.parent for folder in folders} == {tmp_path / "results"}
    assert sorted((tmp_path / "results").iterdir()) == sorted(folders)
    _, failures = load_results(tmp_path)
    assert {failure.message for failure in failures} == set(ODD_NAMES)


def test_a_plain_name_is_its_folder(tmp_path: Path) -> None:
    assert result_folder(tmp_path, "badja_dog-2.5") == tmp_path / "results" / "badja_dog-2.5"


def test_methods_with_odd_names_keep_apart(tmp_path: Path) -> None:
    saved = known_result(methods={"raw/DINO": 1.0, "raw DINO": 2.0, "raw-DINO": 3.0})
    save_result(tmp_path, saved)
    ((loaded,), _) = load_results(tmp_path)
    for one, other in zip(loaded.methods, saved.methods):
        assert_same(one.tracks, other.tracks)


def test_a_new_result_replaces_the_earlier_one_wholly(tmp_path: Path) -> None:
    save_result(tmp_path, known_result(methods={"old method": 1.0}))
    save_result(tmp_path, known_result(methods={"new method": 1.0}))
    place = result_folder(tmp_path, "known")
    assert not list(place.glob("*old*"))
    loaded = load_result(place)
    assert isinstance(loaded, ClipResult)
    assert [method.name for method in loaded.methods] == ["new method"]


def test_what_breaks_off_while_writing_leaves_no_trace(tmp_path: Path) -> None:
    save_result(tmp_path, known_result(methods={"earlier": 1.0}))
    broken = dataclasses.replace(known_result(), pictures={"a.jpg": None})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        save_result(tmp_path, broken)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["known"]
    loaded = load_result(result_folder(tmp_path, "known"))
    assert isinstance(loaded, ClipResult)
    assert loaded.methods[0].name == "earlier"


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file, not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        save_result(tmp_path, known_result())


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
    file.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated truth": lambda place: cut(place / "truth.npz"),
    "truncated tracks": lambda place: cut(place / "tracks-DINO-Tracker.npz"),
    "flipped counts": lambda place: flip(place / "counts-DINO-Tracker.npz"),
    "no counts": lambda place: (place / "counts-DINO-Tracker.npz").unlink(),
    "counts of another kind": lambda place: np.savez(place / "counts-DINO-Tracker.npz", a=1),
    "no json": lambda place: (place / "result.json").unlink(),
    "truncated json": lambda place: cut(place / "result.json"),
    "a list for json": lambda place: (place / "result.json").write_text("[]"),
    "empty": lambda place: [path.unlink() for path in place.iterdir() if path.is_file()],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_folder_is_named_and_the_others_are_read(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    save_result(tmp_path, known_result("good"))
    save_result(tmp_path, known_result("bad"))
    place = result_folder(tmp_path, "bad")
    damage(place)

    with pytest.raises(ResultError, match="delete it and evaluate the clip again") as caught:
        load_result(place)
    assert f"'{place}'" in str(caught.value)

    clips, failures = load_results(tmp_path)
    assert [clip.name for clip in clips] == ["good"]
    assert failures == [Failure("bad", str(place), str(caught.value))]


def test_another_versions_folder_says_so(tmp_path: Path) -> None:
    save_result(tmp_path, known_result())
    file = result_folder(tmp_path, "known") / "result.json"
    file.write_text(file.read_text().replace('"format": 1', '"format": 99'))
    _, (failure,) = load_results(tmp_path)
    assert "in format 99, not 1: another version wrote it" in failure.message


def test_no_folder_holds_no_results(tmp_path: Path) -> None:
    assert load_results(tmp_path / "nowhere") == ([], [])
