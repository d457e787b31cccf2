"""The report's pictures: the worst tracks frame by frame, and the truth beside the tracks."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

from dino_tracker_ros.evaluation.report.markup import Markup, element, joined
from dino_tracker_ros.evaluation.report.results import ClipResult
from dino_tracker_ros.evaluation.report.strips import (
    WorstTrack,
    distances,
    sheet_frames,
    sheet_name,
    strip_name,
    worst_tracks,
)

WORST = 10  # tracks of all clips together
BYTES = 16_000_000  # of the clips' JPEGs, so that a browser opens a report about a thousand clips

LEGEND = (
    "A white cross is where the point truly is, grey where it is hidden there. The magenta mark is "
    "the prediction: a dot where it is said to be visible, a ring where hidden. The line between "
    "them is the error, given in pixels of the image. One strip keeps one scale."
)


def worst_of_all(clips: Sequence[ClipResult]) -> list[tuple[ClipResult, WorstTrack]]:
    """The tracks with the largest error, in parts of the image's diagonal, worst first."""
    tracks = [(clip, track) for clip in clips for track in clip_worst(clip)]
    tracks.sort(key=lambda each: each[1].error / _diagonal(each[0]), reverse=True)
    return tracks[:WORST]


def clip_worst(clip: ClipResult) -> list[WorstTrack]:
    """The worst tracks of a clip's first method, worst first."""
    return worst_tracks(clip.methods[0].tracks, clip.truth, clip.mode)


def pictured(clips: Sequence[ClipResult]) -> set[str]:
    """Names of the clips whose pictures go into the page, the worst first, while BYTES last."""
    left, chosen = BYTES, set()
    for clip in sorted(clips, key=_worst_error, reverse=True):
        left -= sum(len(data) for data in clip.pictures.values())
        if left < 0:
            break
        chosen.add(clip.name)
    return chosen


def strip(clip: ClipResult, track: WorstTrack, *, named: bool) -> Markup:
    """One track's pictures in a row, each with its error; `named` says of which clip."""
    t, x, y = clip.truth.queries[track.index]
    error = distances(clip.methods[0].tracks, clip.truth)[track.index]
    caption = [
        [element("b", clip.name), ", "] if named else [],
        element("b", f"track {track.index}"),
        f": {track.error:.1f} px off on average. Asked for at ({x:.0f}, {y:.0f}) in frame "
        f"{round(float(t))}; each picture shows {track.side} × {track.side} px.",
    ]
    frames = []
    for frame in track.frames:
        name = strip_name(track.index, frame)
        if name in clip.pictures:
            value, note = _state(clip, track, frame, float(error[frame]))
            picture = _image(clip, name, f"Track {track.index} in {note}: {value}", (1, 1))
            frames.append(element("li", picture, element("b", value), note))
    return element("figure", element("figcaption", caption), element("ol", frames), class_="strip")


def side_by_side(clip: ClipResult) -> Markup:
    """Truth and tracks of a few frames, drawn alike."""
    size = (clip.truth.width, clip.truth.height)
    rows = []
    for frame in sheet_frames(clip.truth):
        names = {"truth": "Ground truth", "tracks": clip.methods[0].name}
        figures = [
            element(
                "figure",
                _image(clip, sheet_name(what, frame), f"{title}, frame {frame}", size),
                element("figcaption", f"{title}, frame {frame}"),
            )
            for what, title in names.items()
            if sheet_name(what, frame) in clip.pictures
        ]
        rows.append(element("div", figures, class_="pair"))
    return joined(rows)


def _state(clip: ClipResult, track: WorstTrack, frame: int, error: float) -> tuple[str, str]:
    """How far off a track is in one frame, and what else there is to say."""
    truth = clip.truth
    hidden = clip.methods[0].tracks.occluded[track.index, frame]
    note = f"frame {frame}, said hidden" if hidden else f"frame {frame}"
    if frame == round(float(truth.queries[track.index, 0])):
        return "query", f"frame {frame}"
    if np.isfinite(error):
        return f"{error:.1f} px", note
    if truth.evaluate[track.index, frame]:
        return "hidden", note if hidden else f"frame {frame}, said visible"
    return "no label", note


def _image(clip: ClipResult, name: str, description: str, aspect: tuple[int, int]) -> Markup:
    data = base64.b64encode(clip.pictures[name]).decode("ascii")
    return element(
        "img", src=f"data:image/jpeg;base64,{data}", alt=description,
        width=aspect[0], height=aspect[1],  # the room it takes before it is decoded
        loading="lazy", decoding="async",
    )  # fmt: skip


def _worst_error(clip: ClipResult) -> float:
    worst = clip_worst(clip)
    return worst[0].error / _diagonal(clip) if worst else 0.0


def _diagonal(clip: ClipResult) -> float:
    return float(np.hypot(clip.truth.width, clip.truth.height))
