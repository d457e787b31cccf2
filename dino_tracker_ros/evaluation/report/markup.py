"""HTML and SVG put together from elements; whatever is not an element itself is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable

_VOID = {"img", "meta", "br", "col"}


class Markup(str):
    """Text that is markup already. Only `element` and fixed texts make it."""

    __slots__ = ()


Content = str | float | Iterable["Content"]


def element(name: str, /, *content: Content, **attributes: str | float | bool) -> Markup:
    """One element with its content and attributes, all escaped.

    Args:
        name: of the element.
        content: markup, text, numbers, or sequences of them.
        attributes: an underscore stands for a dash, and one at the end is dropped (`class_`).
            True leaves the value out, False the attribute.
    """
    parts = []
    for key, value in attributes.items():
        if value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        key = "viewBox" if key == "viewbox" else key
        parts.append(f" {key}" if value is True else f' {key}="{html.escape(_text(value))}"')
    start = f"<{name}{''.join(parts)}>"
    if name in _VOID:
        return Markup(start)
    return Markup(f"{start}{joined(content)}</{name}>")


def joined(content: Content) -> Markup:
    """Markup as it is, text escaped, sequences one after the other."""
    if isinstance(content, Markup):
        return content
    if isinstance(content, (str, int, float)):
        return Markup(html.escape(_text(content)))
    return Markup("".join(joined(each) for each in content))


def _text(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    # Undecodable bytes of a file's name cannot be written as UTF-8.
    return str(value).encode("utf-8", "replace").decode("utf-8")
