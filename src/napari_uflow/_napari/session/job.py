"""One job: a core generator in a worker of napari, its events as signals in the thread of the window."""

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


@dataclass(frozen=True, slots=True)
class Running:
    """How far a job has come.

    Attributes
    ----------
    phase : str
        What is being done.
    done, total : int
        Steps of this phase.
    seconds_left : float or None
        Time left in this phase; None while it cannot be told.
    part : float
        How much of the next step is done, 0 to 1.
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
    """Return a rough duration in words."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"


class Job(QObject):
    """A job that runs, and what becomes of it.

    Signals
    -------
    progress : Running
    message : Message
    training_point : TrainingPoint
    finished : object
        The result of a job that is done, or was stopped and kept something; `outcome` tells which.
    stopped : str
        It was stopped before there was a result.
    failed : str
        One plain sentence with a way out.
    ended : Outcome
        Comes last, whatever happened.
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
        worker.finished.connect(self._lost)  # napari quit it while it ran: then nothing was returned
        # The worker is held while it runs, and so is this object with it, whoever else forgets it.
        worker.job = self
        self._worker = worker
        self._timer.start()
        worker.start()

    def _ask_to_finish(self) -> None:
        self._is_asked = True
        if self._has_begun and self._worker is not None:  # a generator that has not begun takes nothing
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
        # napari's bar handles events while it is drawn, so this may be called while it runs
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
            self.stopped.emit(ended.text or "stopped before there was a result")
        else:
            self.finished.emit(ended.result)
        self.ended.emit(ended.outcome)
        self._let_go()

    def _let_go(self) -> None:
        """Forget who listened: what they hold, such as images, would live as long as this job is remembered."""
        for signal in (self.progress, self.message, self.training_point, self.finished, self.stopped, self.failed):
            # Where nobody listened, PyQt6 raises TypeError, and PySide6 warns.
            with suppress(TypeError, RuntimeError), warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                signal.disconnect()

    def _lost(self) -> None:
        for steps in self._held:  # napari never resumes a worker that it quit
            steps.close()
        self._end(Ended(Outcome.STOPPED, None, "stopped before there was a result"))


class _Nowhere:
    """Where the text that tqdm would print goes."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        pass


def _free_gpu() -> None:
    """Give the memory of the GPU back to other programs; takes no time where no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
