"""Small charts as inline SVG, whose colours come from the page so that light and dark both work.

Series are told apart by colour, by the shape of their marks and by labels at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dino_tracker_ros.evaluation.report.markup import Markup, element

WIDTH, HEIGHT = 430, 270
COLOURS = 8  # classes s0..s7 of the page

_LEFT, _TOP, _BOTTOM = 44, 12, 44
_LABELS = 152  # room on the right for the series' names
_NAMES = 148  # room on the left for the rows' names of a bar chart
_LINE = 13  # between two labels
_LONGEST = 23  # characters of a label


@dataclass(frozen=True)
class Axis:
    """A linear scale; ticks are (value, text)."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Series:
    """A named line; `colour` counts the methods, `spread` gives (low, high) for each point."""

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()


def percent_axis(title: str, values: Sequence[float]) -> Axis:
    """An axis for shares from 0 to 1 that begins at 0, or at the tenth below all of them."""
    lowest = min(values, default=0.0)
    low = 0.0 if lowest < 0.5 else min(math.floor(lowest * 10) / 10, 0.9)
    steps = 5 if low == 0 else round((1 - low) * 10)
    ticks = [low + (1 - low) * index / steps for index in range(steps + 1)]
    return Axis(title, low, 1.0, [(tick, f"{100 * tick:.0f}") for tick in ticks])


def count_axis(title: str, highest: float) -> Axis:
    """An axis from 0 to just above the highest value, with round ticks."""
    rough = max(highest, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)
    count = math.ceil(highest / step - 1e-9) or 1
    ticks = [(index * step, f"{index * step:g}") for index in range(count + 1)]
    return Axis(title, 0.0, count * step, ticks)


def line_chart(
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    diagonal: bool = False,
    marked: bool = True,
) -> Markup:
    """Lines with marks, a name at the end of each.

    Args:
        description: for those who cannot see the chart.
        series: the lines.
        x, y: the axes.
        diagonal: draw the line on which both are equal.
        marked: a mark at every point, or at the last one only.
    """
    to_x, to_y = _scale(x, _LEFT, WIDTH - _LABELS), _scale(y, HEIGHT - _BOTTOM, _TOP)
    parts = _axes(x, y)
    if diagonal:
        start, end = (to_x(x.low), to_y(y.low)), (to_x(x.high), to_y(y.high))
        parts.append(_line(start, end, "ideal"))
    ends = []
    # The first series is the tracker's own: drawn last, it lies on top.
    for line in reversed([line for line in series if line.points]):
        places = [(to_x(a), to_y(b)) for a, b in line.points]
        text = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        marks = [
            _line((a, to_y(low)), (a, to_y(high)), "spread")
            for (a, _), (low, high) in zip(places, line.spread)
        ]
        marks.append(element("polyline", points=text))
        marks += [_mark(a, b, line.colour) for a, b in (places if marked else places[-1:])]
        parts.append(element("g", marks, class_=f"series s{line.colour % COLOURS}"))
        ends.append((places[-1], line))
    parts += _labels(ends)
    return _figure(description, parts)


def bar_chart(
    description: str, stages: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], x: Axis
) -> Markup:
    """A horizontal bar for each row, made of one piece for each stage, and the stages' legend.

    Args:
        description: for those who cannot see the chart.
        stages: names of the pieces.
        rows: (name, length of each piece).
        x: the axis of lengths.
    """
    to_x = _scale(x, _NAMES, WIDTH - 42)
    step = min(44.0, (HEIGHT - _BOTTOM - _TOP) / max(len(rows), 1))
    bottom = _TOP + step * len(rows)
    parts = [
        element("text", text, x=to_x(value), y=bottom + 16, text_anchor="middle", class_="tick")
        for value, text in x.ticks
    ]
    parts += [
        _line((to_x(value), _TOP), (to_x(value), bottom), "grid") for value, _ in x.ticks
    ]
    middle = (to_x(x.low) + to_x(x.high)) / 2
    parts.append(element("text", x.title, x=middle, y=bottom + 33, text_anchor="middle"))
    for row, (name, lengths) in enumerate(rows):
        top = _TOP + step * row
        parts.append(_clipped(name, x=_NAMES - 8, y=top + step / 2 + 4, text_anchor="end"))
        done = 0.0
        for index, length in enumerate(lengths):
            if length > 0:
                parts.append(
                    element(
                        "rect", element("title", f"{stages[index]}: {length:.1f} s"),
                        x=to_x(done), y=top + step * 0.18, height=step * 0.64,
                        width=max(0.0, to_x(done + length) - to_x(done)),
                        class_=f"bar s{index % COLOURS}",
                    )
                )  # fmt: skip
            done += length
        parts.append(
            element("text", f"{done:.1f}", x=to_x(done) + 5, y=top + step / 2 + 4, class_="value")
        )
    return _figure(description, parts, bottom + 42)


def legend(names: Sequence[str]) -> Markup:
    """Colours and names, as HTML beside a chart."""
    return element(
        "ul",
        [
            element("li", element("i", class_=f"key s{index % COLOURS}"), name)
            for index, name in enumerate(names)
        ],
        class_="legend",
    )


def swatch(colour: int) -> Markup:
    """A method's mark, to stand before its name in a table."""
    return element(
        "svg", element("g", _mark(7, 7, colour), class_=f"series s{colour % COLOURS}"),
        viewbox="0 0 14 14", class_="swatch", aria_hidden="true",
    )  # fmt: skip


def _scale(axis: Axis, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - axis.low) / (axis.high - axis.low) * (end - start)


def _line(start: tuple[float, float], end: tuple[float, float], kind: str) -> Markup:
    return element("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=kind)


def _axes(x: Axis, y: Axis) -> list[Markup]:
    to_x, to_y = _scale(x, _LEFT, WIDTH - _LABELS), _scale(y, HEIGHT - _BOTTOM, _TOP)
    right, bottom = WIDTH - _LABELS, HEIGHT - _BOTTOM
    parts = []
    for value, text in y.ticks:
        parts.append(_line((_LEFT, to_y(value)), (right, to_y(value)), "grid"))
        parts.append(
            element("text", text, x=_LEFT - 7, y=to_y(value) + 4, text_anchor="end", class_="tick")
        )
    for value, text in x.ticks:
        parts.append(
            element("text", text, x=to_x(value), y=bottom + 17, text_anchor="middle", class_="tick")
        )
    parts.append(_line((_LEFT, bottom), (right, bottom), "axis"))
    middle_x, middle_y = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(element("text", x.title, x=middle_x, y=HEIGHT - 8, text_anchor="middle"))
    parts.append(
        element(
            "text", y.title, text_anchor="middle", transform=f"translate(11 {middle_y}) rotate(-90)"
        )
    )
    return parts


def _labels(ends: Sequence[tuple[tuple[float, float], Series]]) -> list[Markup]:
    """Names beside the ends of their lines, pushed apart where they would overlap."""
    ordered = sorted(ends, key=lambda end: (round(end[0][1]), end[1].colour))
    places: list[float] = []
    for (_, wanted), _ in ordered:
        places.append(max(wanted, places[-1] + _LINE) if places else max(wanted, _TOP))
    limit = HEIGHT - _BOTTOM + 4.0
    for index in range(len(places) - 1, -1, -1):
        places[index] = min(places[index], limit)
        limit = places[index] - _LINE
    right = WIDTH - _LABELS
    parts = []
    for ((x, y), line), place in zip(ordered, places):
        points = f"{x + 6:.1f},{y:.1f} {right + 4:.1f},{y:.1f} {right + 10:.1f},{place:.1f}"
        parts.append(
            element(
                "g", element("polyline", points=points, class_="leader"),
                _clipped(line.name, x=right + 13, y=place + 4),
                class_=f"label s{line.colour % COLOURS}",
            )
        )  # fmt: skip
    return parts


def _clipped(name: str, **attributes: str | float) -> Markup:
    shown = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return element("text", element("title", name), shown, **attributes)


def _mark(x: float, y: float, colour: int) -> Markup:
    shape = colour % 4
    if shape == 0:
        return element("circle", cx=x, cy=y, r=3.6)
    corners = (
        ((-3.3, -3.3), (3.3, -3.3), (3.3, 3.3), (-3.3, 3.3)),
        ((0, -4.6), (4.2, 3.2), (-4.2, 3.2)),
        ((0, -4.8), (4.8, 0), (0, 4.8), (-4.8, 0)),
    )[shape - 1]
    return element("polygon", points=" ".join(f"{x + a:.1f},{y + b:.1f}" for a, b in corners))


def _figure(description: str, parts: Sequence[Markup], height: float = HEIGHT) -> Markup:
    return element(
        "svg", element("title", description), parts,
        viewbox=f"0 0 {WIDTH} {height:.0f}", role="img", class_="chart",
    )  # fmt: skip
