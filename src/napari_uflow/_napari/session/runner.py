"""One job at a time.

    runner = session_of(viewer).runner
    job = runner.start(lambda: train_steps(...), title="Training")   # JobError if one is running
    job.finished.connect(...)                                        # and progress, message, training_point, failed ...
    runner.stop()                                                    # FINISH: the job keeps its best result

A job continues if the widget that started it is closed. Signals to a deleted widget are dropped; whatever must happen
to the result anyway is connected to an object that lives as long as the viewer (the session).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_uflow._napari.session.job import Job
from napari_uflow.errors import UFlowError
from napari_uflow.progress import Steps

__all__ = ["JobError", "JobRunner", "State"]


class State(Enum):
    """State of a runner."""

    IDLE = "idle"
    RUNNING = "running"
    FINISHING = "finishing"


class JobError(UFlowError):
    """A job cannot start because another one is running."""


class JobRunner(QObject):
    """Runs one job at a time.

    Signals
    -------
    state_changed : State
    started : Job
        A job started; all widgets of the viewer can connect to it.
    """

    state_changed = Signal(object)
    started = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self._state = State.IDLE
        self._job: Job | None = None

    @property
    def state(self) -> State:
        """State of the runner."""
        return self._state

    @property
    def job(self) -> Job | None:
        """The running job, or the last one."""
        return self._job

    def start(self, make_steps: Callable[[], Steps[Any]], *, title: str) -> Job:
        """Start a job.

        Parameters
        ----------
        make_steps : callable
            Returns the generator. It is called in the worker, so slow imports belong there. It must hold arrays and
            values only: no viewer, no layer, no widget.
        title : str
            Name of the job, one or two words.

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
        """Ask the job to finish with its best result so far."""
        if self._state is State.RUNNING and self._job is not None:
            self._job._ask_to_finish()
            self._set_state(State.FINISHING)

    def _ended(self) -> None:
        self._set_state(State.IDLE)

    def _set_state(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self.state_changed.emit(state)
