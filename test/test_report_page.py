"""The report: one page that needs nothing else, holds every number once, and trusts no name."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from known_result import known_result

from dino_tracker_ros.evaluation.report import pictures, tables
from dino_tracker_ros.evaluation.report.markup import Markup, element, joined
from dino_tracker_ros.evaluation.report.page import write_report
from dino_tracker_ros.evaluation.report.results import (
    ClipResult,
    Failure,
    ResultError,
    result_folder,
    save_result,
)
from dino_tracker_ros.evaluation.report.summary import CSV_COLUMNS
from dino_tracker_ros.evaluation.scores import HEADLINES, METRICS

EVIL = '<script>alert("1")</script>&amp; "quoted" \'ünï\' 走'
VOID = {"img", "meta", "br", "col"}


class Page(HTMLParser):
    """A parsed page: fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def report(folder: Path, *results: ClipResult | Failure) -> Page:
    for result in results:
        save_result(folder, result)
    write_report(folder)
    return page(folder)


def test_the_page_needs_no_network_and_runs_no_script(tmp_path: Path) -> None:
    text = report(tmp_path, known_result(EVIL), Failure("gone", "gone.bag", "gone"))
    for tag, attributes in text.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,"))
    style = (tmp_path / "report.html").read_text(encoding="utf-8").split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_links_within_the_page_have_a_target(tmp_path: Path) -> None:
    found = report(tmp_path, known_result(), known_result("other"), Failure("a", "b", "c"))
    targets = {attributes.get("id") for _, attributes in found.tags}
    links = [str(link["href"]).removeprefix("#") for link in found.all("a")]
    assert len(links) > 5
    assert set(links) <= targets


def test_names_and_messages_are_shown_as_they_are_and_never_as_markup(tmp_path: Path) -> None:
    result = known_result(EVIL, methods={EVIL + " tracker": 1.0, "b": 2.0}, live={EVIL: 1.0})
    result = dataclasses.replace(
        result, source=EVIL, run={EVIL: EVIL}, settings={"clip.length": EVIL}
    )
    found = report(tmp_path, result, Failure(EVIL + "2", EVIL, EVIL))
    assert not found.all("script")
    assert found.text.count(EVIL) > 10
    whole = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert whole["clips"][0]["name"] == EVIL


def test_names_that_are_not_unicode_are_no_trouble(tmp_path: Path) -> None:
    report(tmp_path, known_result("a\udcffb"), Failure("c\udcffd", "", "\udcff"))


def test_every_chart_is_well_formed_and_says_what_it_shows(tmp_path: Path) -> None:
    report(tmp_path, known_result(methods={EVIL: 1.0, "b": 30.0}))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    charts = re.findall(r'<svg [^>]*class="chart".*?</svg>', text, re.DOTALL)
    assert len(charts) == 5
    for chart in charts:
        drawing = ElementTree.fromstring(chart)
        title = drawing.find("title")
        assert title is not None and title.text
        for node in drawing.iter():
            for name in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "width", "height"):
                assert np.isfinite(float(node.get(name, "0")))


def test_every_picture_has_a_description(tmp_path: Path) -> None:
    images = report(tmp_path, known_result()).all("img")
    assert len(images) > 20
    assert all(image["alt"] for image in images)


def numbers(folder: Path) -> Iterator[tuple[tuple[str, str, str, str], list[float | None]]]:
    """Every score of scores.json under the key that scores.csv gives it."""
    whole = json.loads((folder / "scores.json").read_text(encoding="utf-8"))

    def values(found: dict[str, dict[str, float]]) -> Iterator[tuple[str, list[float | None]]]:
        for name, score in found.items():
            yield name, [score["value"], score["low"], score["high"], score["count"]]

    for method in whole["pooled"]:
        for name, score in values(method["scores"]):
            yield ("all clips", method["name"], "", name), score
        for occlusion, found in method["by_occlusion"].items():
            for name, score in values(found):
                yield ("all clips", method["name"], occlusion, name), score
    for clip in whole["clips"]:
        for method in clip["methods"]:
            for name, score in values(method["scores"]):
                yield (clip["name"], method["name"], "", name), score


def test_json_and_csv_hold_the_same_numbers(tmp_path: Path) -> None:
    report(tmp_path, known_result("a, b\n"), known_result("c", has_occlusion=False))
    expected = dict(numbers(tmp_path))
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    found = {
        tuple(row[:4]): [float(cell) if cell != "nan" else None for cell in row[4:]]
        for row in rows[1:]
        if row[-1]
    }
    assert found == expected
    plain = {tuple(row[:4]): row[4] for row in rows[1:] if not row[-1]}
    assert plain["c", "DINO-Tracker", "", "seconds.fit"] == "2.0"


def test_the_page_shows_the_numbers_of_the_json(tmp_path: Path) -> None:
    found = report(tmp_path, known_result(), known_result("joints", has_occlusion=False))
    shown = set(found.texts)
    units = {metric.name: metric.unit for metric in METRICS}
    checked = 0
    for (_, _, occlusion, name), score in numbers(tmp_path):
        headline = name in {metric.name for metric in HEADLINES}
        if occlusion == "" and headline and score[0] is not None:
            share = units[name] == "%"
            text = f"{100 * score[0]:.1f}" if share else f"{score[0]:.2f}"
            assert text in shown, name
            checked += 1
    assert checked > 20


def test_what_the_truth_does_not_support_is_a_dash_and_not_in_the_json(tmp_path: Path) -> None:
    joints = known_result("joints", has_occlusion=False)
    found = report(tmp_path, joints, known_result("exact"))
    of = {key[0]: set() for key, _ in numbers(tmp_path)}  # type: ignore[var-annotated]
    for key, _ in numbers(tmp_path):
        of[key[0]].add(key[3])
    assert "average_jaccard" not in of["joints"]
    assert "average_jaccard" in of["exact"]
    assert "pck" in of["joints"]
    assert "pck" not in of["exact"]
    assert "–" in found.texts


def best(found: str, clip: str) -> dict[str, int]:
    """How many best values each method has in a clip's rows."""
    body = next(part for part in found.split("<tbody>") if f">{clip}</th>" in part)
    rows = re.findall(r'<th scope="row">.*?</svg>(.*?)</th>(.*?)</tr>', body, re.DOTALL)
    return {name: cells.count("<strong>") for name, cells in rows}


def test_the_best_is_marked_where_more_is_better_and_where_less_is(tmp_path: Path) -> None:
    report(tmp_path, known_result(methods={"bad": 7.0, "good": 0.5}), known_result("other"))
    found = dict(numbers(tmp_path))
    expected, directions = {"bad": 0, "good": 0}, set()
    for metric in HEADLINES:
        values = {
            name: found["known", name, "", metric.name][0]
            for name in expected
            if ("known", name, "", metric.name) in found
        }
        if not values:
            continue
        top = max(values.values()) if metric.higher_is_better else min(values.values())
        for name, value in values.items():
            expected[name] += value == top
        if len(set(values.values())) == 2:
            directions.add(metric.higher_is_better)
    assert directions == {True, False}
    assert best((tmp_path / "report.html").read_text(encoding="utf-8"), "known") == expected


def test_big_numbers_stand_beside_the_best_baselines_not_the_trackers_own(tmp_path: Path) -> None:
    methods = {"tracker": 1.0, "tracker, seed 2": 0.5, "still": 20.0, "flow": 4.0}
    report(tmp_path, known_result(methods=methods))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    position, *_ = text[text.index('class="cards"') : text.index("</ul>")].split("</li>")
    assert "flow: " in position
    assert "seed 2" not in position
    assert "still" not in position


def test_a_single_method_is_not_called_the_best(tmp_path: Path) -> None:
    report(tmp_path, known_result(methods={"alone": 1.0}))
    assert "<strong>" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_damaged_result_is_listed_and_the_others_are_reported(tmp_path: Path) -> None:
    save_result(tmp_path, known_result("bad"))
    (result_folder(tmp_path, "bad") / "truth.npz").write_bytes(b"nothing")
    found = report(tmp_path, known_result("good"), Failure("gone", "gone.bag", "bring it back"))
    for words in ("bad", "good", "gone", "bring it back", "2 clips without a result"):
        assert words in found.text
    failures = json.loads((tmp_path / "scores.json").read_text())["failures"]
    assert [failure["name"] for failure in failures] == ["bad", "gone"]


def test_failures_alone_make_a_report_too(tmp_path: Path) -> None:
    assert "bring it back" in report(tmp_path, Failure("gone", "gone.bag", "bring it back")).text


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="holds no results"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_stay_within_their_bound_and_the_others_are_pointed_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = known_result("worse", methods={"tracker": 9.0})
    better = known_result("better", methods={"tracker": 1.0})
    size = sum(len(data) for data in worse.pictures.values())
    whole = report(tmp_path, worse, better)
    monkeypatch.setattr(pictures, "BYTES", size)
    bounded = report(tmp_path)
    assert 0 < len(bounded.all("img")) < len(whole.all("img"))
    place = str(result_folder(tmp_path, "better") / "pictures")
    assert place in bounded.text
    assert place not in whole.text
    assert str(result_folder(tmp_path, "worse") / "pictures") not in bounded.text


def test_no_picture_is_embedded_twice(tmp_path: Path) -> None:
    images = report(tmp_path, known_result(methods={"tracker": 3.0})).all("img")
    assert len({image["src"] for image in images}) == len(images)


def test_a_result_without_pictures_has_its_numbers(tmp_path: Path) -> None:
    found = report(tmp_path, dataclasses.replace(known_result(), pictures={}))
    assert not found.all("img")
    assert "AJ" in found.texts


def test_live_measures_are_shown_where_a_replay_was_run(tmp_path: Path) -> None:
    assert "latency median" not in report(tmp_path, known_result()).text
    found = report(tmp_path, known_result(live={"latency_median": 0.625, "frames_dropped": 3.0}))
    for words in ("latency median", "0.62", "frames dropped", "3"):
        assert words in found.texts


def test_what_differs_between_clips_is_told_apart(tmp_path: Path) -> None:
    one, other = known_result("one"), known_result("other")
    other = dataclasses.replace(other, run={"Python": "3.12"}, settings={"clip.length": 20})
    found = report(tmp_path, one, other)
    for words in ("3.10", "3.12", "20", "clip.length", "sha256 0123"):
        assert words in found.texts
    # 48 is the default of clip.length, 20 is not.
    assert "Settings that differ from the defaults" in found.texts


def test_a_long_evaluation_is_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "FEW", 2)
    for number in range(3):
        result = known_result(f"clip {number}", live={"lag": float(number)})
        save_result(tmp_path, dataclasses.replace(result, run={"files": str(number)}))
    write_report(tmp_path)
    found = page(tmp_path)
    assert found.texts.count("Each of the 3 clips") == 2  # their scores, their live measures
    assert "3 different values, listed in scores.json" in found.texts


def test_settings_that_are_not_the_defaults_stand_out(tmp_path: Path) -> None:
    report(tmp_path, known_result())  # clip.length is the default, optimizer.seed is not
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    _, _, settings = text.partition("Settings that differ")
    changed, _, every = settings.partition("All settings")
    assert "optimizer.seed" in changed
    assert "clip.length" not in changed
    assert "clip.length" in every


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    report(tmp_path, known_result("one"))
    assert "second" in report(tmp_path, known_result("second")).text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("report.html", "results", "scores.csv", "scores.json")
    ]


def test_markup_escapes_all_but_itself() -> None:
    made = element("b", "<i>", [element("i", 1.50), " & "], 3, class_="a\"'<", hidden=False)
    assert made == '<b class="a&quot;&#x27;&lt;">&lt;i&gt;<i>1.5</i> &amp; 3</b>'
    assert joined(Markup("<b>")) == "<b>"
    assert element("img", alt="x", aria_hidden=True) == '<img alt="x" aria-hidden>'
