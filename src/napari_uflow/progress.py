"""The one mechanism for progress and for stopping: generators of small frozen events.

A long job of this package is a generator. It yields events, and every ``yield`` is a boundary at which the caller may
answer :data:`FINISH` (by ``send``). What the job returns is the generator's return value. There is no thread, queue,
callback or flag in the core; the command line drains the generator, napari gives it to a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, TypeVar

from napari_uflow.errors import Stopped

__all__ = [
    "Event",
    "FINISH",
    "Finish",
    "Message",
    "Pieces",
    "Progress",
    "Snapshot",
    "Steps",
    "TimeLeft",
    "TrainingPoint",
    "at_once",
    "drain",
    "in_pieces",
    "or_stop",
    "under",
    "within",
]

T = TypeVar("T")


class Finish(Enum):
    """The type of :data:`FINISH`."""

    FINISH = "finish"


FINISH: Final = Finish.FINISH
"""What a caller sends into a running job to ask it to stop at this boundary."""


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
        return self.text if self.source is None else f"{self.source.name}: {self.text}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one phase of a job has come.

    Attributes
    ----------
    phase : str
        What is being done, in words a user reads ("Computing features").
    done, total : int
        Steps done and steps in all, ``0 <= done <= total``.
    part : float
        How much of the next step is done, 0 to 1, where it is a long one; events that differ in it alone are equal.
    """

    phase: str
    done: int
    total: int
    part: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class TrainingPoint:
    """The losses at one check of a training.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    train_loss, holdout_loss : float
        Negative log-likelihood in nats per latent dimension, without its constant; mean over the steps since the
        last point, and over the held-out tiles (NaN if nothing could be held out).
    holdout_energy : float
        99.9 % quantile of the held-out energies on the worst level; their mean is 1 for a perfect model.
    is_best : bool
        The model of this check is the best so far.
    """

    step: int
    train_loss: float
    holdout_loss: float
    holdout_energy: float
    is_best: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The best result so far, for whoever wants to keep it in case the program dies.

    Attributes
    ----------
    result : object
        What the job would return, as far as it has come; of training a model without calibration.
    """

    result: Any


Event = Message | Progress | TrainingPoint | Snapshot
"""What a job yields."""

Steps = Generator[Event, Finish | None, T]
"""A job that returns a ``T``."""

Pieces = Generator[None, None, T]
"""A computation that pauses between its pieces and returns a ``T``; it knows nothing of jobs."""


class TimeLeft:
    """Tells how much longer a phase takes, from what it took so far.

    A long step may be reported several times; that does not change the estimate.
    """

    # A step that took less than this says nothing about the next one.
    _LEAST_SECONDS = 0.5

    def __init__(self) -> None:
        self._phase: str | None = None
        self._began = self._done_at = 0.0
        self._first = self._done = 0.0

    def seconds(self, progress: Progress, now: float) -> float | None:
        """Take note of how far a phase has come and return the time left, None while it cannot be told.

        Parameters
        ----------
        progress : Progress
            How far it has come.
        now : float
            Time in seconds from any zero, the same for all calls.
        """
        done = progress.done + progress.part
        if progress.phase != self._phase or done < self._done:
            self._phase, self._began, self._done_at = progress.phase, now, now
            self._first = self._done = done
        elif done != self._done:
            self._done, self._done_at = done, now
        n, took = self._done - self._first, self._done_at - self._began
        if n == 0 or took < self._LEAST_SECONDS:
            return None
        return max(0.0, took / n * (progress.total - self._done) - (now - self._done_at))


def drain(
    steps: Steps[T],
    on_event: Callable[[Event], None] | None = None,
    should_finish: Callable[[], bool] | None = None,
) -> T:
    """Run a job to its end and return its result.

    Parameters
    ----------
    steps : generator
        The job.
    on_event : callable, optional
        Called with every event.
    should_finish : callable, optional
        Asked after every event; the job is sent :data:`FINISH` once it answers True.

    Returns
    -------
    object
        The job's return value.

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
    """Yield an event of a job that has nothing to keep yet.

    Raises
    ------
    Stopped
        If the answer is :data:`FINISH`.
    """
    if (yield event) is FINISH:
        raise Stopped("stopped before there was a result")


def at_once(pieces: Pieces[T]) -> T:
    """Run a computation without pauses and return its result."""
    return drain(in_pieces(pieces, None))


def in_pieces(pieces: Pieces[T], progress: Progress | None) -> Steps[T]:
    """Run a computation as a part of a job that may be stopped between two pieces.

    Parameters
    ----------
    pieces : generator
        The computation.
    progress : Progress or None
        How far the job has come, yielded between two pieces; None for no events.

    Raises
    ------
    Stopped
        If it was asked to finish.
    """
    while True:
        try:
            next(pieces)
        except StopIteration as stop:
            result: T = stop.value
            return result
        if progress is not None:
            yield from or_stop(progress)


def under(pieces: Pieces[T], context: Callable[[], AbstractContextManager[object]]) -> Pieces[T]:
    """Run each piece of a computation in a context of its own, which ends before the pause.

    Parameters
    ----------
    pieces : generator
        The computation.
    context : callable
        Makes the context, such as one of a precision; one that stayed open in a pause would leak to whoever runs then.
    """
    while True:
        with context():
            try:
                next(pieces)
            except StopIteration as stop:
                result: T = stop.value
                return result
        yield


def within(steps: Steps[T], progress: Progress) -> Steps[T]:
    """Run one job as a part of another: its progress is replaced by that of the whole, all else goes through.

    Parameters
    ----------
    steps : generator
        The job.
    progress : Progress
        How far the whole has come, yielded in place of each progress event; answers reach the job. The part of the
        step that is done is that of the job's first phase.
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
