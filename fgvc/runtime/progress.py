"""One dense line of progress: percent, loss, top-1, images/s, data-wait share, time left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress:
    """A bar that redraws in a terminal and prints a line every `seconds` into a log file. Measures where time goes."""

    def __init__(self, total: int, start: int, images_per_step: int, title: str, *, show: bool, seconds: float = 15):
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=start, desc=title, unit="step", disable=not show, mininterval=0.5 if terminal else
            seconds, dynamic_ncols=terminal, smoothing=0.1,
            bar_format="{desc} {percentage:3.0f}% {n_fmt}/{total_fmt}{postfix} ETA {remaining}",
        )  # fmt: skip
        self._terminal = terminal
        self._images = images_per_step
        self._began = self._last = time.perf_counter()
        self._first = start
        self._waited = self._paused = 0.0

    def waited(self, seconds: float) -> None:
        """Count time spent waiting for data."""
        self._waited += seconds

    def paused(self, seconds: float) -> None:
        """Leave time spent on something else (evaluation, a checkpoint) out of the next step's images/s."""
        self._paused += seconds

    def step(self, values: dict[str, str], finished: float) -> dict[str, float]:
        """One step done at `finished` (time.perf_counter); this run's figures: images/s and data_wait (share of the
        wall time)."""
        step_seconds, self._last, self._paused = finished - self._last - self._paused, finished, 0.0
        elapsed = finished - self._began
        figures = {
            "images_per_second": round(self._images / max(step_seconds, 1e-9), 2),
            "data_wait": round(self._waited / max(elapsed, 1e-9), 4),
        }
        rate = (self._bar.n + 1 - self._first) * self._images / max(elapsed, 1e-9)
        shown = values | {"img/s": f"{rate:.1f}", "data-wait": f"{figures['data_wait']:.0%}"}
        self._bar.set_postfix_str(" ".join(f"{key} {value}" for key, value in shown.items()), refresh=False)
        if self._bar.update(1) and not self._terminal and not self._bar.disable:
            print(file=sys.stderr)  # in a log every line stays
        return figures

    def close(self) -> None:
        self._bar.close()


def with_progress(
    items: Iterable[T], total: int, title: str, unit: str, *, show: bool, seconds: float = 15
) -> Iterator[T]:  # fmt: skip
    """The items, with a bar in a terminal and a line every `seconds` into a log file, none where all is done sooner."""
    if sys.stderr.isatty() or not show:
        yield from tqdm(items, desc=title, unit=unit, total=total, leave=False, disable=not show)
        return
    began = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown > seconds:
            shown, left = now, (now - began) / done * (total - done)
            print(f"{title} {done}/{total} {unit}, ETA {left:.0f} s", file=sys.stderr, flush=True)
