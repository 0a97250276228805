"""Progress of a job on the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO, TypeVar

from napari_uflow.cli.interrupts import Interrupts
from napari_uflow.cli.terminal import clear_line
from napari_uflow.progress import Event, Message, Progress, Steps, TimeLeft, TrainingPoint, drain
from napari_uflow.wording import LEAST_PART, how_far, printable

__all__ = ["Reporter", "run_and_save", "run_job", "silence"]

R = TypeVar("R")
T = TypeVar("T")

_SECONDS_ON_TERMINAL, _SECONDS_IN_LOG = 0.2, 15


class Reporter:
    """Printer of events to stderr: one line that is rewritten on a terminal, a line every 15 s elsewhere.

    If nobody hears it, since the terminal is closed or the disk of a log is full, it falls silent: the job goes on.
    """

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
            holdout = f", held out {event.holdout_loss:.4f}" if event.holdout_loss == event.holdout_loss else ""
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
            self._print(text, end="\n" if is_end else "", clears=True)
            self._open_line = not is_end
        elif is_end or event.done + event.part >= LEAST_PART:
            self._print(text)

    def _line(self, text: str) -> None:
        self._print(printable(text), clears=self._open_line)
        self._open_line = False

    def _print(self, text: str, end: str = "\n", *, clears: bool = False) -> None:
        try:
            if clears:
                clear_line()
            print(text, end=end, file=sys.stderr, flush=True)
        except OSError:
            silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Discard from now on what is printed to a stream that cannot be written to."""
    with suppress(OSError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_job(steps: Steps[T], interrupts: Interrupts) -> T:
    """Run a job with a progress line; the first signal asks it to finish, a second Ctrl-C aborts it."""
    return run_and_save(steps, interrupts, lambda result: result)


def run_and_save(steps: Steps[T], interrupts: Interrupts, save: Callable[[T], R]) -> R:
    """Run a job, and save its result in a time in which no signal has an effect.

    Parameters
    ----------
    steps : generator
        The job.
    interrupts : Interrupts
        The signals that may end it.
    save : callable
        Saves the result.

    Returns
    -------
    object
        What `save` returns.
    """
    with interrupts.handled():
        result = drain(steps, Reporter(), interrupts)
        with interrupts.saving():
            return save(result)
