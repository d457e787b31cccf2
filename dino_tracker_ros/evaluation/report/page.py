"""The report: one HTML file that needs nothing else, and its numbers as JSON and CSV."""

from __future__ import annotations

from pathlib import Path

from dino_tracker_ros.evaluation.report.curves import curves
from dino_tracker_ros.evaluation.report.markup import Content, Markup, element
from dino_tracker_ros.evaluation.report.number_texts import (
    interval_text,
    many,
    metric_title,
    value_text,
)
from dino_tracker_ros.evaluation.report.pictures import (
    LEGEND,
    clip_worst,
    pictured,
    side_by_side,
    strip,
    worst_of_all,
)
from dino_tracker_ros.evaluation.report.results import (
    ClipResult,
    ResultError,
    load_results,
    result_folder,
)
from dino_tracker_ros.evaluation.report.style import STYLE
from dino_tracker_ros.evaluation.report.summary import Summary, scores_csv, scores_json, summarize
from dino_tracker_ros.evaluation.report.tables import (
    failure_table,
    live_tables,
    run_tables,
    score_tables,
)
from dino_tracker_ros.evaluation.scores import METRICS
from dino_tracker_ros.visualization.output import atomic_output

_BIG = ("delta_average", "average_jaccard", "occlusion_accuracy", "survival", "re_found", "pck")
_STRATEGY = {
    "strided": "all frames but a query's own",
    "first": "the frames after a query",
    "every": "all frames but a query's own, every track asked for in every frame that shows it",
}


def write_report(folder: Path) -> None:
    """Reads OUT/results and writes OUT/report.html, OUT/scores.json and OUT/scores.csv.

    What cannot be read is listed in the report and keeps nothing else from it.

    Raises:
        ResultError: there is no result at all.
        OutputError: a file cannot be written.
    """
    clips, failures = load_results(folder)
    if not clips and not failures:
        raise ResultError(f"'{folder / 'results'}' holds no results: evaluate a clip first")
    summary = summarize(clips, failures)
    for name, text in (
        ("report.html", report_html(summary, folder)),
        ("scores.json", scores_json(summary)),
        ("scores.csv", scores_csv(summary)),
    ):
        with atomic_output(folder / name, overwrite=True) as temporary:
            # Undecodable bytes of file names cannot be written otherwise.
            temporary.write_text(text, encoding="utf-8", errors="replace", newline="")


def report_html(summary: Summary, folder: Path) -> str:
    """The whole page; `folder` is only named in it."""
    colours = {name: index for index, name in enumerate(summary.methods)}
    sections = [
        ("scores", "Scores", score_tables(summary, colours)),
        ("curves", "Curves", curves(summary, colours)),
        ("live", "The live run", live_tables(summary)),
        ("failures", "Clips without a result", failure_table(summary)),
        ("worst", "The worst tracks", _worst(summary)),
        ("clips", "Clip by clip", _clips(summary, folder)),
        ("metrics", "What the scores mean", _meanings(summary)),
        ("run", "How it was run", run_tables(summary)),
    ]
    shown = [(key, title, content) for key, title, content in sections if content]
    body = [
        _header(summary),
        element("nav", [element("a", title, href=f"#{key}") for key, title, _ in shown]),
        _cards(summary),
        [
            element("section", element("h2", title), content, id=key)
            for key, title, content in shown
        ],
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", "Point tracking: evaluation"),
        element("style", Markup(STYLE)),
    ]
    page = element("html", element("head", head), element("body", element("main", body)), lang="en")
    return f"<!doctype html>\n{page}\n"


def _header(summary: Summary) -> Markup:
    tracks = sum(len(clip.truth.queries) for clip in summary.clips)
    facts = [
        many(len(summary.clips), "clip"),
        many(tracks, "track"),
        many(len(summary.methods), "method"),
        *(f"scored on {_STRATEGY[mode]}" for mode in sorted({c.mode for c in summary.clips})),
    ]
    failed: list[Content] = []
    if summary.failures:
        text = f"{many(len(summary.failures), 'clip')} without a result"
        failed = [" · ", element("a", text, href="#failures", class_="alarm")]
    return element(
        "header",
        element("h1", "How well the points were tracked"),
        element("p", " · ".join(facts), failed, class_="quiet"),
    )


def _cards(summary: Summary) -> Content:
    """The tracker's main scores, and the best baseline's beside each."""
    if not summary.clips:
        return ()
    first, *others = summary.methods
    own = first.partition(",")[0]  # with other seeds or replayed, it is still the same tracker
    cards = []
    metrics = {metric.name: metric for metric in METRICS}
    for metric in (metrics[name] for name in _BIG):
        score = summary.pooled[first].scores.get(metric.name)
        if score is None:
            continue
        on = sum(metric.name in summary.scores.get((c.name, first), {}) for c in summary.clips)
        rivals = {
            name: found.value
            for name in others
            if not name.startswith(own)
            and (found := summary.pooled[name].scores.get(metric.name)) is not None
        }
        best = max(rivals, key=lambda name: rivals[name], default=None)
        cards.append(
            element(
                "li",
                element("span", metric_title(metric), class_="name"),
                element("b", value_text(metric, score.value), element("small", metric.unit)),
                element("span", f"{interval_text(metric, score)} · {many(on, 'clip')}"),
                element("span", f"{best}: {value_text(metric, rivals[best])}") if best else (),
            )
        )
    return [
        element("ul", cards, class_="cards"),
        element(
            "p", f"{first}, mean over the clips that support a score, with its 95 % interval.",
            class_="quiet",
        ),
    ]  # fmt: skip


def _worst(summary: Summary) -> Content:
    worst = worst_of_all(summary.clips)
    if not worst:
        return ()
    clips = " of all clips" if len(summary.clips) > 1 else ""
    about = f"The {many(len(worst), 'track')} of {summary.methods[0]} with the largest mean error"
    return [
        element("p", f"{about}{clips}. {LEGEND}"),
        [strip(clip, track, named=len(summary.clips) > 1) for clip, track in worst],
    ]


def _clips(summary: Summary, folder: Path) -> Content:
    shown = {(clip.name, track.index) for clip, track in worst_of_all(summary.clips)}
    with_pictures = pictured(summary.clips)
    parts = []
    for clip in summary.clips:
        truth = clip.truth
        facts = (
            f"{many(len(truth.queries), 'track')}, {many(truth.points.shape[1], 'frame')} of "
            f"{truth.width} × {truth.height} px"
        )
        pictures: Content = side_by_side(clip), _other_strips(clip, shown)
        if clip.name not in with_pictures:
            place = result_folder(folder, clip.name) / "pictures"
            pictures = element("p", "Its pictures are in ", element("code", str(place)), ".")
        parts.append(
            element(
                "details",
                element("summary", element("b", clip.name), f" – {facts}"),
                element("p", "From ", element("code", clip.source), "."),
                pictures,
                open=len(summary.clips) == 1,
            )
        )
    return parts


def _other_strips(clip: ClipResult, shown: set[tuple[str, int]]) -> Content:
    """Strips of the worst tracks that do not stand further up already."""
    rest = [track for track in clip_worst(clip) if (clip.name, track.index) not in shown]
    if not rest:
        return ()
    above = len(clip_worst(clip)) - len(rest)
    title = "Its worst tracks" if not above else f"Its worst tracks beside the {above} shown above"
    strips = [strip(clip, track, named=False) for track in rest]
    return [element("p", title, class_="subtitle"), strips]


def _meanings(summary: Summary) -> Content:
    used = [m for m in METRICS if any(m.name in p.scores for p in summary.pooled.values())]
    if not used:
        return ()
    return element(
        "dl",
        [
            (element("dt", metric_title(metric)), element("dd", metric.description, "."))
            for metric in used
        ],
    )
