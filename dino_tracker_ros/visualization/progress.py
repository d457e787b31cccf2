"""Progress bars on stderr, one for each stage, several at a time where stages overlap."""

from __future__ import annotations

import sys

from tqdm import tqdm

_LOG_INTERVAL = 5.0  # s between lines where stderr is not a terminal
_TERMINAL_INTERVAL = 0.1


class ProgressBars:
    """Call it with (stage, done, total) as often as you like; use it as a context.

    Args:
        keep: leave finished bars on the screen.
    """

    def __init__(self, keep: bool = False) -> None:
        self.title = ""
        self._keep = keep
        self._bars: dict[str, tqdm[None]] = {}
        self._finished: set[str] = set()
        self._interval = _TERMINAL_INTERVAL if sys.stderr.isatty() else _LOG_INTERVAL

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Shows that `done` of `total` steps of a stage are done; fewer than before begins anew."""
        label = f"{self.title}: {stage}" if self.title else stage
        if label in self._finished:
            if done >= total:
                return
            self._finished.remove(label)
        bar = self._bars.get(label)
        if bar is not None and (done < bar.n or bar.total != total):
            bar.close()
            bar = None
        if bar is None:
            bar = self._bars[label] = tqdm(
                total=total, desc=label, file=sys.stderr, leave=self._keep,
                mininterval=self._interval,
            )  # fmt: skip
        bar.update(done - bar.n)
        if done >= total:
            bar.close()
            del self._bars[label]
            self._finished.add(label)
