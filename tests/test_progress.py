"""Jobs as generators: their result, their events, and how they are asked to finish."""

import dataclasses
from contextlib import contextmanager

import pytest

from napari_uflow.errors import Stopped, UFlowError
from napari_uflow.progress import (
    FINISH,
    Message,
    Progress,
    TimeLeft,
    chunk_steps,
    drain,
    or_stop,
    run_chunks,
    under,
    within,
)


def counting(n, log):
    """Count to n; when asked to finish, return what there is."""
    try:
        for i in range(n):
            if (yield Progress("Counting", i, n)) is FINISH:
                return i
        return n
    finally:
        log.append("closed")


def test_drain_returns_the_result_and_shows_all_events():
    events, log = [], []
    assert drain(counting(3, log), events.append) == 3
    assert events == [Progress("Counting", i, 3) for i in range(3)]
    assert log == ["closed"]


def test_a_job_without_events_has_a_result():
    def job():
        return 5
        yield

    assert drain(job()) == 5


@pytest.mark.parametrize("asked_at", [0, 1, 2])
def test_finish_arrives_at_the_event_after_which_it_was_asked(asked_at):
    events = []
    assert drain(counting(3, []), events.append, lambda: len(events) > asked_at) == asked_at
    assert len(events) == asked_at + 1


def test_should_finish_is_asked_once_for_each_event():
    asked = []
    drain(counting(4, []), None, lambda: asked.append(1))
    assert len(asked) == 4


def test_finish_is_sent_as_long_as_the_job_goes_on():
    answers = []

    def stubborn():
        for i in range(3):
            answer = yield Message(str(i))
            answers.append(answer)
        return "done"

    assert drain(stubborn(), None, lambda: True) == "done"
    assert answers == [FINISH] * 3


def test_an_error_of_the_job_reaches_the_caller():
    def failing():
        yield Message("now")
        raise UFlowError("it did not work")

    with pytest.raises(UFlowError, match="it did not work"):
        drain(failing())


def test_an_error_of_the_listener_closes_the_job():
    log = []
    job = counting(3, log)

    def broken(event):
        raise RuntimeError("the listener is broken")

    with pytest.raises(RuntimeError, match="listener"):
        drain(job, broken)
    job.close()
    assert log == ["closed"]


def test_or_stop_goes_on_or_stops():
    def job():
        yield from or_stop(Message("nothing to keep yet"))
        return "done"

    assert drain(job()) == "done"
    with pytest.raises(Stopped):
        drain(job(), None, lambda: True)
    steps = job()
    assert next(steps) == Message("nothing to keep yet")


def test_events_are_frozen_values():
    event = Progress("Counting", 1, 2)
    assert event == Progress("Counting", 1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.done = 2
    assert not Message("text").warning


def test_a_job_within_another_is_heard_and_can_be_stopped():
    def inner():
        for i in range(3):
            yield from or_stop(Progress("inner", i, 3))
        yield Message("nearly")
        return "done"

    whole = Progress("outer", 1, 9)
    events = []
    assert drain(within(inner(), whole), events.append) == "done"
    assert events == [whole, whole, whole, Message("nearly")]
    steps = within(inner(), whole)
    next(steps)
    with pytest.raises(Stopped):
        steps.send(FINISH)


def test_the_part_of_a_long_step_is_that_of_its_first_phase():
    def inner():
        for i in range(4):
            yield Progress("Detecting", i, 4)
        yield Progress("Drawing", 0, 2)
        yield Progress("Detecting", 0, 4)

    parts = []
    drain(within(within(inner(), Progress("a stack", 1, 2)), Progress("files", 3, 9)), lambda e: parts.append(e.part))
    assert parts == [0.5, 0.625, 0.75, 0.875, 0.875, 0.875]
    clock = TimeLeft()
    told = [clock.seconds(Progress("files", 3, 9, part), now) for part, now in ((0.0, 0.0), (0.5, 5.0), (0.5, 8.0))]
    assert told == [None, 55.0, 52.0]


def test_time_left_is_told_from_whole_steps():
    clock = TimeLeft()
    told = [
        clock.seconds(Progress("Detecting", done, 4), now)
        for done, now in [(0, 10.0), (0, 11.0), (1, 12.0), (1, 13.0), (1, 30.0), (2, 31.0), (4, 32.0)]
    ]
    assert told == [None, None, 6.0, 5.0, 0.0, 21.0, 0.0]


def test_time_left_begins_anew_with_each_phase_and_when_it_is_too_short_to_tell():
    clock = TimeLeft()
    assert clock.seconds(Progress("One", 0, 9), 0.0) is None
    assert clock.seconds(Progress("One", 1, 9), 0.1) is None
    assert clock.seconds(Progress("Two", 5, 9), 1.0) is None
    assert clock.seconds(Progress("Two", 6, 9), 2.0) == 3.0
    assert clock.seconds(Progress("Two", 1, 9), 2.1) is None


def computing(n, log):
    for i in range(n):
        log.append(i)
        yield
    return n


def test_a_computation_at_once_has_its_result():
    assert run_chunks(computing(3, [])) == 3
    assert run_chunks(computing(0, [])) == 0


def test_a_job_may_be_stopped_between_two_chunks():
    log = []
    steps = chunk_steps(computing(5, log), Progress("Computing", 1, 4))
    assert [next(steps), next(steps)] == [Progress("Computing", 1, 4)] * 2
    with pytest.raises(Stopped):
        steps.send(FINISH)
    assert log == [0, 1]


def test_chunks_without_progress_yield_no_events():
    events, log = [], []
    assert drain(chunk_steps(computing(3, log), None), events.append) == 3
    assert (events, log) == ([], [0, 1, 2])


def test_each_piece_has_a_context_of_its_own():
    """A context left open in a pause would leak into the code that runs then."""
    log = []

    @contextmanager
    def context():
        log.append("open")
        yield
        log.append("closed")

    def chunks():
        log.append(1)
        yield
        log.append(2)
        return "done"

    running = under(chunks(), context)
    next(running)
    log.append("pause")
    assert run_chunks(running) == "done"
    assert log == ["open", 1, "closed", "pause", "open", 2, "closed"]
