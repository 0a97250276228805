"""Jobs: generators of small frozen events, the only mechanism for progress and stopping.

A long job is a generator. It yields events, and at every ``yield`` the caller may answer :data:`FINISH` (by ``send``).
The result is the return value of the generator. The core has no thread, queue, callback or flag; the command line runs
the generator directly, napari in a worker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from napari_uflow.errors import Stopped
from napari_uflow.wording import without_subject

__all__ = [
    "Chunks",
    "Event",
    "FINISH",
    "Finish",
    "Message",
    "Progress",
    "Snapshot",
    "Steps",
    "TimeLeft",
    "TrainingPoint",
    "chunk_steps",
    "phase_steps",
    "drain",
    "or_stop",
    "run_chunks",
    "under",
    "within",
]

T = TypeVar("T")


class Finish(Enum):
    """Type of :data:`FINISH`."""

    FINISH = "finish"


FINISH: Final = Finish.FINISH
"""Answer to an event that asks the job to stop."""


@dataclass(frozen=True, slots=True)
class Message:
    """Sentence for the user.

    Attributes
    ----------
    text : str
        The sentence.
    warning : bool
        True for a message that asks for attention.
    source : Path or None
        File that the message is about; None for a message about the whole job, or about an image that it names.
    """

    text: str
    warning: bool = False
    source: Path | None = None

    @property
    def full_text(self) -> str:
        """Text after the name of the file that it is about."""
        if self.source is None:
            return self.text
        return f"{self.source.name}: {without_subject(self.text, str(self.source))}"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of one phase of a job.

    Attributes
    ----------
    phase : str
        Name of the phase for the user ("Computing features").
    done, total : int
        Completed steps and all steps, ``0 <= done <= total``.
    part : float
        Completed fraction of the next step, 0 to 1; ignored when events are compared.
    """

    phase: str
    done: int
    total: int
    part: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """Losses at one step of training.

    Attributes
    ----------
    step : int
        Completed optimiser steps.
    train_loss, holdout_loss : float
        Negative log-likelihood in nats per latent dimension, without its constant; mean over the steps since the last
        point, and over the held-out tiles (NaN without held-out tiles).
    holdout_energy : float
        99.9 % quantile of the held-out energies of the worst level (the mean of a perfect model is 1).
    is_best : bool
        True for the best model so far, which is kept.
    planted : float
        Figure of merit of the evidence on planted defects, 0 to 1, see :class:`~napari_uflow.training.merit.Maxima`;
        NaN where it was not measured.
    """

    step: int
    train_loss: float
    holdout_loss: float
    holdout_energy: float
    is_best: bool
    planted: float = math.nan


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Best result so far, to be saved in case the program is killed.

    Attributes
    ----------
    result : object
        Preliminary result of the job; for training a model without calibration.
    """

    result: Any


Event = Message | Progress | TrainingPoint | Snapshot
"""Event that a job yields."""

Steps = Generator[Event, Finish | None, T]
"""Job that returns a ``T``."""

Chunks = Generator[None, None, T]
"""Computation that yields after each chunk and returns a ``T``, such as the layers of a network."""


class TimeLeft:
    """Estimate of the remaining time of a phase from its duration so far.

    A long step may be reported several times without an effect on the estimate.
    """

    # Shorter durations are not extrapolated.
    _LEAST_SECONDS = 0.5

    def __init__(self) -> None:
        self._phase: str | None = None
        self._began = self._done_at = 0.0
        self._first = self._done = 0.0

    def seconds(self, progress: Progress, now: float) -> float | None:
        """Record the progress of a phase and return the remaining seconds, None while they are unknown.

        Parameters
        ----------
        progress : Progress
            Progress of the phase.
        now : float
            Time in seconds since a zero that is the same for all calls.
        """
        done = progress.done + progress.part
        if progress.phase != self._phase or done < self._done:
            self._phase, self._began, self._done_at = progress.phase, now, now
            self._first = self._done = done
        elif done != self._done:
            self._done, self._done_at = done, now
        n, elapsed = self._done - self._first, self._done_at - self._began
        if n == 0 or elapsed < self._LEAST_SECONDS:
            return None
        return max(0.0, elapsed / n * (progress.total - self._done) - (now - self._done_at))


def drain(
    steps: Steps[T],
    on_event: Callable[[Event], None] | None = None,
    should_finish: Callable[[], bool] | None = None,
) -> T:
    """Run a job and return its result.

    Parameters
    ----------
    steps : generator
        Job.
    on_event : callable, optional
        Called with every event.
    should_finish : callable, optional
        Called after every event; the job gets :data:`FINISH` if it returns True.

    Returns
    -------
    object
        Result of the job.

    Raises
    ------
    Stopped
        If the job was asked to finish before it had a result.
    """
    answer: Finish | None = None
    try:
        event = next(steps)
        while True:
            if on_event is not None:
                on_event(event)
            answer = FINISH if should_finish is not None and should_finish() else None
            event = steps.send(answer)
    except StopIteration as stop:
        result: T = stop.value
        return result


def or_stop(event: Event) -> Steps[None]:
    """Yield an event of a job that has no result yet.

    Raises
    ------
    Stopped
        If the answer is :data:`FINISH`.
    """
    if (yield event) is FINISH:
        raise Stopped("stopped before there was a result")


def run_chunks(chunks: Chunks[T]) -> T:
    """Run a computation without events and return its result."""
    return drain(chunk_steps(chunks, None))


def chunk_steps(chunks: Chunks[T], progress: Progress | None) -> Steps[T]:
    """Run a computation as part of a job that may be stopped between two chunks.

    Parameters
    ----------
    chunks : generator
        Computation.
    progress : Progress or None
        Event to yield between two chunks; None for no events.

    Raises
    ------
    Stopped
        If the job was asked to finish.
    """
    while True:
        try:
            next(chunks)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if progress is not None:
            yield from or_stop(progress)


def phase_steps(chunks: Chunks[T], phase: str) -> Steps[T]:
    """Run a computation as a phase of a job, whose progress is told at its beginning and its end.

    Parameters
    ----------
    chunks : generator
        Computation.
    phase : str
        Name of the phase.

    Raises
    ------
    Stopped
        If the job was asked to finish.
    """
    begun = Progress(phase, 0, 1)
    yield from or_stop(begun)
    result = yield from chunk_steps(chunks, begun)
    yield from or_stop(Progress(phase, 1, 1))
    return result


def under(chunks: Chunks[T], context: Callable[[], AbstractContextManager[object]]) -> Chunks[T]:
    """Run each chunk of a computation in a separate context, which is closed between chunks.

    Parameters
    ----------
    chunks : generator
        Computation.
    context : callable
        Returns the context, such as one of a precision; left open, it would affect other code that runs in between.
    """
    while True:
        with context():
            try:
                next(chunks)
            except StopIteration as stop:
                result: T = stop.value
                return result
        yield


def within(steps: Steps[T], progress: Progress) -> Steps[T]:
    """Run one job as a step of another: its progress events are replaced, all other events are passed on.

    Parameters
    ----------
    steps : generator
        Job.
    progress : Progress
        Progress of the other job, yielded in place of each progress event with the completed fraction of the first
        phase of `steps`; answers are passed on.
    """
    phase, part = None, 0.0
    try:
        event = next(steps)
        while True:
            if isinstance(event, Progress):
                phase = phase or event.phase
                if event.phase == phase and event.total:
                    part = max(part, (event.done + event.part) / event.total)
                event = replace(progress, part=part)
            event = steps.send((yield event))
    except StopIteration as stop:
        result: T = stop.value
        return result
