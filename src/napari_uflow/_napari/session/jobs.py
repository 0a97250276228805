"""One job at a time: a core generator in a worker of napari, its events as signals in the thread of the window.

    runner = session_of(viewer).runner
    job = runner.start(lambda: train_steps(...), title="Training")   # JobError where one is running
    job.finished.connect(...)                                        # and progress, message, training_point, failed ...
    runner.stop()                                                    # FINISH: the job keeps what it can

A job goes on if the widget that started it is closed. Signals to a widget that is gone go nowhere; what must happen to
the result all the same is connected to something that lives as long as the viewer (the session).
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from napari_uflow._napari.session.libraries import load_libraries
from napari_uflow.errors import BackboneUnavailableError, Stopped, UFlowError
from napari_uflow.progress import FINISH, Event, Finish, Message, Progress, Steps, TimeLeft, TrainingPoint
from napari_uflow.wording import how_far

__all__ = ["Job", "JobError", "JobRunner", "Outcome", "Running", "State", "in_words"]

logger = logging.getLogger(__name__)

# Between two progress events that go to the window; all other events go at once.
_SECONDS_BETWEEN = 0.05
_MS_BETWEEN_DOCK = 250


class State(Enum):
    """What a runner is doing."""

    IDLE = "idle"
    RUNNING = "running"
    FINISHING = "finishing"


class Outcome(Enum):
    """How a job ended. A stopped job may have a result: training keeps its best model."""

    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class JobError(UFlowError):
    """A job cannot be started because another one is running."""


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


@dataclass(frozen=True)
class _Ended:
    outcome: Outcome
    result: Any = None
    text: str = ""
    warnings: tuple[str, ...] = ()


def _steps_in_worker(
    make_steps: Callable[[], Steps[Any]], held: list[Steps[Any]] | None = None
) -> Generator[Event | None, Finish | None, _Ended]:
    """Drive a job; yield what the window should know, and end without an exception.

    The job is put into `held`, for whoever has to close it where this is never resumed.

    Progress comes up to thousands of times a second; the window hears of it twenty times a second. Python warnings of
    this thread become messages: one that is shown from a worker can freeze the window.
    """
    heard: list[str] = []
    seen: set[str] = set()
    me = threading.get_ident()
    shown_before = warnings.showwarning

    def hear(message: Any, *args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != me:
            shown_before(message, *args, **kwargs)
        elif str(message) not in seen:
            seen.add(str(message))
            heard.append(str(message))

    # napari's worker has put the state of warnings aside, and restores it
    warnings.showwarning = hear
    steps: Steps[Any] | None = None
    answer: Finish | None = None
    asked = False
    last = 0.0
    reported: Event | None = None
    try:
        asked = (yield None) is FINISH  # tells the window that something can be sent from now on
        load_libraries()
        steps = make_steps()
        if held is not None:
            held.append(steps)
        event = next(steps)
        while True:
            while heard:
                asked = (yield Message(heard.pop(0), warning=True)) is FINISH or asked
            is_news = not isinstance(event, Progress) or (event != reported and event.done in (0, event.total))
            if is_news or time.monotonic() - last > _SECONDS_BETWEEN:
                last, reported = time.monotonic(), event
                asked = (yield event) is FINISH or asked
            answer = FINISH if asked else None
            event = steps.send(answer)
    except StopIteration as stop:
        return _Ended(Outcome.STOPPED if asked else Outcome.DONE, stop.value, warnings=tuple(heard))
    except Stopped as error:
        return _Ended(Outcome.STOPPED, None, str(error), tuple(heard))
    except BackboneUnavailableError as error:
        return _Ended(Outcome.FAILED, None, error.text(_WEIGHTS_FOLDER), tuple(heard))
    except UFlowError as error:
        return _Ended(Outcome.FAILED, None, str(error), tuple(heard))
    except MemoryError:
        logger.exception("out of memory")
        return _Ended(Outcome.FAILED, None, _OUT_OF_MEMORY)
    except Exception as error:
        logger.exception("a job failed")
        return _Ended(Outcome.FAILED, None, _in_plain_words(error))
    finally:
        if steps is not None:
            steps.close()


_WEIGHTS_FOLDER = "set its folder in File > Preferences > U-Flow anomaly detection > Weights folder"
_OUT_OF_MEMORY = "there is not enough memory: choose smaller tiles or a smaller backbone, or close other programs"


def _in_plain_words(error: Exception) -> str:
    """Return one sentence with a way out for an error that is nobody's mistake but ours."""
    if "out of memory" in str(error).lower():
        return f"{_OUT_OF_MEMORY}; device 'cpu' in the preferences uses the main memory"
    first = (str(error).splitlines() or [""])[0][:200]
    return (
        f"something went wrong inside the program ({type(error).__name__}: {first}): your layers are unchanged; try "
        f"again with other settings, and report it with the text in the log if it stays"
    )


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
        worker = create_worker(_steps_in_worker, make_steps, self._held, _start_thread=False)
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

    def _end(self, ended: _Ended) -> None:
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
        self._end(_Ended(Outcome.STOPPED, None, "stopped before there was a result"))


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


class JobRunner(QObject):
    """Runs one job at a time.

    Signals
    -------
    state_changed : State
    started : Job
        A job that someone started; all widgets of the viewer may listen to it.
    """

    state_changed = Signal(object)
    started = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._state = State.IDLE
        self._job: Job | None = None

    @property
    def state(self) -> State:
        """What the runner is doing."""
        return self._state

    @property
    def job(self) -> Job | None:
        """The job that runs, or ran last."""
        return self._job

    def start(self, make_steps: Callable[[], Steps[Any]], *, title: str) -> Job:
        """Start a job.

        Parameters
        ----------
        make_steps : callable
            Returns the generator; called in the worker, so it may import what takes long. It must hold arrays and
            values only: no viewer, no layer, no widget.
        title : str
            What is done, in one word or two.

        Raises
        ------
        JobError
            If a job is running.
        """
        if self._state is not State.IDLE:
            running = self._job.title if self._job is not None else "a job"
            raise JobError(f"{running} is still running: wait until it ends, or stop it")
        job = Job(title)
        self._job = job
        job.ended.connect(self._ended)
        self._set_state(State.RUNNING)
        self.started.emit(job)
        job._run(make_steps)
        return job

    def stop(self) -> None:
        """Ask the job to finish with what it has."""
        if self._state is State.RUNNING and self._job is not None:
            self._job._ask_to_finish()
            self._set_state(State.FINISHING)

    def _ended(self) -> None:
        self._set_state(State.IDLE)

    def _set_state(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)
