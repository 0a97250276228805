"""A job: a core generator in a napari worker, with its events as signals in the main thread."""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_uflow._napari.session.worker import Ended, Outcome, steps_in_worker
from napari_uflow.progress import FINISH, Event, Message, Progress, Steps, TimeLeft, TrainingPoint
from napari_uflow.wording import how_far

__all__ = ["Job", "Running", "in_words"]

_MS_BETWEEN_DOCK = 250
_NO_RESULT = "stopped before there was a result"


@dataclass(frozen=True, slots=True)
class Running:
    """Progress of a job.

    Attributes
    ----------
    phase : str
        Current phase.
    done, total : int
        Steps of the phase, done and in all.
    seconds_left : float or None
        Time left in the phase; None while unknown.
    part : float
        Done part of the next step, 0 to 1.
    """

    phase: str
    done: int
    total: int
    seconds_left: float | None
    part: float = 0.0

    @property
    def text(self) -> str:
        """The phase and the time left in words."""
        left = "" if self.seconds_left is None else f", {in_words(self.seconds_left)} left"
        return f"{self.phase}: {how_far(self.done, self.total, self.part)}{left}"


def in_words(seconds: float) -> str:
    """Return a rough duration; a no-break space keeps number and unit on one line."""
    if seconds < 90:
        return f"about {max(1, round(seconds))}\u00a0s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)}\u00a0min"
    return f"about {seconds / 3600:.1f}\u00a0h"


class Job(QObject):
    """A running job.

    Signals
    -------
    progress : Running
    message : Message
    training_point : TrainingPoint
    finished : object
        Result of a job that is done, or that was stopped and kept its best; `outcome` tells which.
    stopped : str
        Text; the job was stopped before it had a result.
    failed : str
        One sentence with a remedy.
    ended : Outcome
        Always the last signal.
    """

    progress = Signal(object)
    message = Signal(object)
    training_point = Signal(object)
    finished = Signal(object)
    stopped = Signal(str)
    failed = Signal(str)
    ended = Signal(object)

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
        self.outcome: Outcome | None = None
        self.running: Running | None = None
        self.points: list[TrainingPoint] = []
        self._worker: Any = None
        self._held: list[Steps[Any]] = []
        self._dock: Any = None
        self._has_begun = self._is_asked = False
        self._time_left = TimeLeft()
        self._timer = QTimer(self)
        self._timer.setInterval(_MS_BETWEEN_DOCK)
        self._timer.timeout.connect(self._show_in_dock)
        self._in_dock = False

    def _run(self, make_steps: Callable[[], Steps[Any]]) -> None:
        from napari.qt.threading import create_worker
        from napari.utils import progress

        self._dock = progress(total=0, desc=self.title, file=_Nowhere())
        worker = create_worker(steps_in_worker, make_steps, self._held, _start_thread=False)
        worker.yielded.connect(self._hear)
        worker.returned.connect(self._end)
        worker.finished.connect(self._lost)  # napari quit the running worker, which then returns nothing
        # napari keeps a running worker alive, and the worker keeps this object.
        worker.job = self
        self._worker = worker
        self._timer.start()
        worker.start()

    def _ask_to_finish(self) -> None:
        self._is_asked = True
        if self._has_begun and self._worker is not None:  # nothing can be sent to a generator before its first yield
            self._worker.send(FINISH)

    def _hear(self, event: Event | None) -> None:
        if event is None:
            self._has_begun = True
            if self._is_asked:
                self._ask_to_finish()
        elif isinstance(event, Progress):
            self.running = self._timed(event)
            self.progress.emit(self.running)
        elif isinstance(event, TrainingPoint):
            self.points.append(event)
            self.training_point.emit(event)
        elif isinstance(event, Message):
            self.message.emit(event)

    def _timed(self, event: Progress) -> Running:
        left = self._time_left.seconds(event, time.monotonic())
        return Running(event.phase, event.done, event.total, left, event.part)

    def _show_in_dock(self) -> None:
        # napari's progress bar processes events while it is drawn, so this may be called recursively
        if self._in_dock or self._dock is None or self.running is None:
            return
        self._in_dock = True
        try:
            dock, running = self._dock, self.running
            if dock.total != running.total:
                dock.total = running.total
            dock.set_description(f"{self.title}: {running.phase}")
            if self._dock is not None and running.done != dock.n:
                dock.update(running.done - dock.n)
        finally:
            self._in_dock = False

    def _end(self, ended: Ended) -> None:
        if self.outcome is not None:
            return
        self.outcome = ended.outcome
        self._timer.stop()
        self._held.clear()
        if self._dock is not None:
            dock, self._dock = self._dock, None
            dock.close()
        if self._worker is not None:
            self._worker.job = None
            self._worker = None
        _free_gpu()
        for text in ended.warnings:
            self.message.emit(Message(text, warning=True))
        if ended.outcome is Outcome.FAILED:
            self.failed.emit(ended.text)
        elif ended.result is None:
            self.stopped.emit(ended.text or _NO_RESULT)
        else:
            self.finished.emit(ended.result)
        self.ended.emit(ended.outcome)
        self._disconnect_all()

    def _disconnect_all(self) -> None:
        """Disconnect all slots: the images that they hold would live as long as this job."""
        for signal in (self.progress, self.message, self.training_point, self.finished, self.stopped, self.failed):
            # Without a connection PyQt6 raises TypeError, and PySide6 warns.
            with suppress(TypeError, RuntimeError), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                signal.disconnect()

    def _lost(self) -> None:
        for steps in self._held:  # napari never resumes a worker that it has quit
            steps.close()
        self._end(Ended(Outcome.STOPPED, None, _NO_RESULT))


class _Nowhere:
    """Stream that discards the text of tqdm."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def _free_gpu() -> None:
    """Release cached GPU memory to other programs; takes no time without a GPU."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
