"""Numbers as JSON that every reader takes: without NaN and infinity."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any


def json_text(values: object) -> str:
    """JSON of nested dictionaries, lists and dataclasses; what is not finite becomes null."""
    return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def record(value: Any) -> dict[str, object]:
    """A dataclass's fields by name, not copied."""
    return {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(record(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
