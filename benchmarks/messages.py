"""What the benchmarks tell while they work."""

from __future__ import annotations

import sys
import time


def say(message: str) -> None:
    """One line on stderr, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
