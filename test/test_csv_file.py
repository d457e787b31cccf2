from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dino_tracker_ros.evaluation.truths.csv_file import load_truth_csv
from dino_tracker_ros.evaluation.truths.ground_truth import GroundTruth, GroundTruthError

STAMPS = np.array([100, 200, 300, 400]) * 10**9 + 7
NAN = float("nan")


def load(folder: Path, text: str) -> GroundTruth:
    (folder / "tracks.csv").write_text(text, encoding="utf-8")
    return load_truth_csv(folder / "tracks.csv", STAMPS, 40, 30)


def test_lines_become_tracks(tmp_path):
    truth = load(
        tmp_path,
        "track,t,x,y,occluded\n"
        "nose,1,10.5,20,0\n"
        "tail,0,,,1\n"
        "nose,2,11,21,1\n"
        "tail,3,5,6,0\n"
        "tail,2,4,5.25,false\n"
        "never,2,4,5,1\n",
    )
    assert (truth.width, truth.height, truth.has_occlusion) == (40, 30, True)
    assert truth.mask_areas is None
    assert truth.queries.tolist() == [[1, 10.5, 20], [2, 4, 5.25]]
    expected = [
        [[NAN, NAN], [10.5, 20], [11, 21], [NAN, NAN]],
        [[NAN, NAN], [NAN, NAN], [4, 5.25], [5, 6]],
    ]
    np.testing.assert_array_equal(truth.points, np.array(expected, np.float32))
    assert truth.evaluate.astype(int).tolist() == [[0, 1, 1, 0], [1, 0, 1, 1]]
    assert truth.occluded.astype(int).tolist() == [[1, 0, 1, 1], [1, 1, 0, 0]]


def test_without_the_column_occlusion_is_not_known(tmp_path):
    truth = load(tmp_path, "y,x,track,t\n2,1,a,0\n4,3,a,1\n")
    assert not truth.has_occlusion
    assert truth.points[0, :2].tolist() == [[1, 2], [3, 4]]


def test_spreadsheets_write_a_mark_spaces_and_more_columns(tmp_path):
    text = "\ufefftrack, t, x, y, occluded, note\na, 0, 1, 2, FALSE, first\na,1,1,2,1,\n"
    assert load(tmp_path, text).queries.tolist() == [[0, 1, 2]]


def test_stamps_are_matched_exactly(tmp_path, caplog):
    text = "track,stamp,x,y\n" + "".join(
        f"a,{stamp},{index},2\n" for index, stamp in enumerate([*STAMPS[[1, 3]], STAMPS[2] + 1])
    )
    truth = load(tmp_path, text)
    assert truth.evaluate.tolist() == [[False, True, False, True]]
    assert truth.queries.tolist() == [[1, 0, 2]]
    assert "1 of 3 lines" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column track, t, x, y"),
        ("a,0,1,2\n", "no column track, t, x, y"),
        ("track,t,x\na,0,1\n", "no column y"),
        ("track,t,x,y\n", "no track"),
        ("track,t,x,y\na,0,1\n", "line 2 of .*'y': None"),
        ("track,t,x,y\na,0,1,2\na,1.5,1,2\n", "line 3 .*'t': '1.5'"),
        ("track,t,x,y\na,0,one,2\n", "'x': 'one'"),
        ("track,t,x,y,occluded\na,0,1,2,maybe\n", "'occluded': 'maybe'"),
        ("track,t,x,y,occluded\na,0,,2,0\n", "'x': ''"),
        ("track,t,x,y\na,4,1,2\n", "at t 4, which is none of the 4 frames"),
        ("track,t,x,y\na,-1,1,2\n", "at t -1"),
        ("track,stamp,x,y\na,4,1,2\n", "at stamp 4, which is none of the 4 frames"),
        ("track,t,x,y\na,0,1,2\na,0,1,2\n", "track a twice at t 0"),
        ("track,t,x,y\na,0,1,2\na,1,50,2\n", "outside the 40x30 px"),
        ("track,t,x,y\na,0,1,200\n", "query 0"),
        ("track,t,x,y\na,0,nan,2\n", "query 0"),
        ("track,t,x,y\na,0,1,2\na,1,nan,2\n", "NaN"),
        ("track,t,x,y,occluded\na,0,1,2,1\n", "no track"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text, message):
    with pytest.raises(GroundTruthError, match=message) as caught:
        load(tmp_path, text)
    assert "tracks.csv" in str(caught.value)


def test_other_files(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"track,t,x,y\n\xff\xfe,0,1,2\n")
    with pytest.raises(GroundTruthError, match="cannot be read as CSV"):
        load_truth_csv(tmp_path / "a.csv", STAMPS, 40, 30)
    with pytest.raises(GroundTruthError, match="cannot be read as CSV"):
        load_truth_csv(tmp_path / "none.csv", STAMPS, 40, 30)
