"""Progress of a job on the terminal, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from napari_uflow.cli.terminal import clear_line
from napari_uflow.progress import Event, Message, Progress, Steps, TimeLeft, TrainingPoint, drain
from napari_uflow.wording import LEAST_PART, how_far, printable

__all__ = ["Reporter", "run_job"]

T = TypeVar("T")

_SECONDS_ON_TERMINAL, _SECONDS_IN_LOG = 0.2, 15


class Reporter:
    """Printer of events to stderr: one line that is rewritten on a terminal, a line every 15 s elsewhere."""

    def __init__(self) -> None:
        self._phase = ""
        self._start = 0.0
        self._last = 0.0
        self._is_terminal = sys.stderr.isatty()
        self._open_line = False
        self._shown: set[str] = set()
        self._time_left = TimeLeft()

    def __call__(self, event: Event) -> None:
        """Print an event; a repeated warning is printed once."""
        if isinstance(event, Message):
            text = event.full_text
            if event.warning and text in self._shown:
                return
            self._shown.add(text)
            self._line(("warning: " if event.warning else "") + text)
        elif isinstance(event, TrainingPoint):
            holdout = ""
            if event.holdout_loss == event.holdout_loss:
                holdout = f", held out {event.holdout_loss:.4f}, held-out energies up to {event.holdout_energy:.3g}"
            best = "  (best so far)" if event.is_best else ""
            self._line(f"  step {event.step}: loss {event.train_loss:.4f}{holdout}{best}")
        elif isinstance(event, Progress):
            self._progress(event)

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        seconds = self._time_left.seconds(event, now)
        if event.phase != self._phase:
            self._phase, self._start, self._last = event.phase, now, now - 3600
        is_end = event.done >= event.total
        if now - self._last < (_SECONDS_ON_TERMINAL if self._is_terminal else _SECONDS_IN_LOG) and not is_end:
            return
        self._last = now
        left = ""
        if is_end:
            left = f", took {_duration(now - self._start)}"
        elif seconds is not None:
            left = f", {_duration(seconds)} left"
        text = f"{event.phase}: {how_far(event.done, event.total, event.part)}{left}"
        if self._is_terminal:
            clear_line()
            print(text, end="\n" if is_end else "", file=sys.stderr, flush=True)
            self._open_line = not is_end
        elif is_end or event.done + event.part >= LEAST_PART:
            print(text, file=sys.stderr, flush=True)

    def _line(self, text: str) -> None:
        if self._open_line:
            clear_line()
            self._open_line = False
        print(printable(text), file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_job(steps: Steps[T]) -> T:
    """Run a job with a progress line; the first Ctrl-C asks it to finish, the second one aborts it."""
    with _interrupts() as was_interrupted:
        return drain(steps, Reporter(), was_interrupted)


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    count = 0

    def handle(number: int, frame: object) -> None:  # noqa: ARG001 - signature of the signal module
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        print("\nfinishing; press Ctrl-C again to abort", file=sys.stderr)

    try:
        previous = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread, which alone receives Ctrl-C
        yield lambda: False
        return
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, previous)
