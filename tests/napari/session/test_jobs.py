"""One job at a time, and every way it can end."""

import gc
import threading
import time
import warnings
import weakref

import pytest

from napari_uflow._napari.session.job import Running, in_words
from napari_uflow._napari.session.runner import JobError, JobRunner, State
from napari_uflow._napari.session.worker import Outcome
from napari_uflow.errors import ImageError
from napari_uflow.progress import FINISH, Message, Progress, TrainingPoint, or_stop


@pytest.fixture
def runner(qtbot):
    """A runner whose job is over when the test is."""
    runner = JobRunner()
    yield runner
    runner.stop()
    qtbot.waitUntil(lambda: runner.state is State.IDLE)


def listen(job):
    heard = []
    for name in ("progress", "message", "training_point", "finished", "stopped", "failed", "ended"):
        getattr(job, name).connect(lambda *args, name=name: heard.append((name, *args)))
    return heard


def wait(qtbot, runner):
    qtbot.waitUntil(lambda: runner.state is State.IDLE, timeout=5000)


def counting(n=5, result="result"):
    yield Message("begins")
    for i in range(n):
        yield Progress("Counting", i, n)
    yield TrainingPoint(1, 2.0, 3.0, 4.0, True)
    return result


def endless():
    """Until FINISH; then there is something to keep."""
    while (yield Progress("Waiting", 1, 2)) is not FINISH:
        time.sleep(0.01)
    return "best so far"


def test_done(qtbot, runner):
    job = runner.start(counting, title="Count")
    heard = listen(job)
    assert runner.state is State.RUNNING
    assert runner.job is job
    wait(qtbot, runner)
    assert job.outcome is Outcome.DONE
    assert heard[-2:] == [("finished", "result"), ("ended", Outcome.DONE)]
    assert ("message", Message("begins")) in heard
    assert ("training_point", TrainingPoint(1, 2.0, 3.0, 4.0, True)) in heard
    assert any(kind == "progress" and event[0].phase == "Counting" for kind, *event in heard)


def test_stopped_with_something_to_keep(qtbot, runner):
    job = runner.start(endless, title="Wait")
    heard = listen(job)
    qtbot.waitUntil(lambda: bool(heard))
    began = time.monotonic()
    runner.stop()
    assert runner.state is State.FINISHING
    wait(qtbot, runner)
    assert time.monotonic() - began < 1
    assert job.outcome is Outcome.STOPPED
    assert ("finished", "best so far") in heard


def test_stopped_with_nothing(qtbot, runner):
    def steps():
        while True:
            yield from or_stop(Progress("Waiting", 1, 2))
            time.sleep(0.01)

    job = runner.start(steps, title="Wait")
    heard = listen(job)
    runner.stop()
    wait(qtbot, runner)
    assert heard[-2:] == [("stopped", "stopped before there was a result"), ("ended", Outcome.STOPPED)]


def test_an_error_of_the_user_is_passed_on(qtbot, runner):
    def steps():
        yield Progress("Reading", 0, 1)
        raise ImageError("the image is empty; choose another one")

    job = runner.start(steps, title="Read")
    heard = listen(job)
    wait(qtbot, runner)
    assert heard[-2:] == [("failed", "the image is empty; choose another one"), ("ended", Outcome.FAILED)]


@pytest.mark.parametrize(
    ("error", "says"),
    [(ValueError("broken\nat line 3"), "ValueError: broken"), (MemoryError(), "smaller tiles")],
)
def test_an_internal_error_is_one_sentence_and_a_traceback_in_the_log(qtbot, runner, caplog, error, says):
    def steps():
        yield Progress("Reading", 0, 1)
        raise error

    job = runner.start(steps, title="Read")
    heard = listen(job)
    wait(qtbot, runner)
    ((_, text),) = [event for event in heard if event[0] == "failed"]
    assert says in text
    assert "\n" not in text
    assert "Traceback" in caplog.text


def test_a_job_that_cannot_begin_fails_too(qtbot, runner):
    def make_steps():
        raise ImageError("no")

    job = runner.start(make_steps, title="Begin")
    wait(qtbot, runner)
    assert job.outcome is Outcome.FAILED


def test_one_job_at_a_time(qtbot, runner):
    runner.start(endless, title="Training")
    with pytest.raises(JobError, match="Training is still running"):
        runner.start(counting, title="Count")
    runner.stop()
    wait(qtbot, runner)
    runner.start(counting, title="Count")
    wait(qtbot, runner)


def test_python_warnings_of_the_worker_become_messages(qtbot, runner):
    def steps():
        warnings.warn("look out", UserWarning, stacklevel=1)
        yield Progress("Working", 0, 1)
        warnings.warn("look out", UserWarning, stacklevel=1)
        yield Progress("Working", 1, 1)

    job = runner.start(steps, title="Work")
    heard = listen(job)
    wait(qtbot, runner)
    assert [event for event in heard if event[0] == "message"] == [("message", Message("look out", warning=True))]


def test_the_job_runs_elsewhere_and_signals_come_here(qtbot, runner):
    threads = []

    def steps():
        threads.append(threading.get_ident())
        yield Progress("Working", 0, 1)

    job = runner.start(steps, title="Work")
    job.progress.connect(lambda event: threads.append(threading.get_ident()))
    wait(qtbot, runner)
    assert threads[0] != threading.get_ident()
    assert threads[1:] == [threading.get_ident()] * len(threads[1:])


def test_thousands_of_events_do_not_flood_the_window(qtbot, runner):
    def steps():
        for i in range(20_001):
            yield Progress("Counting", i, 20_000)

    job = runner.start(steps, title="Count")
    heard = listen(job)
    wait(qtbot, runner)
    events = [event for kind, *event in heard if kind == "progress"]
    assert len(events) < 200
    assert events[-1][0].done == 20_000


@pytest.mark.slow
def test_a_runner_may_be_deleted_before_its_job(qtbot):
    runner = JobRunner()
    ended = []
    job = runner.start(endless, title="Wait")
    job.ended.connect(ended.append)
    runner.stop()
    del runner, job
    gc.collect()
    qtbot.waitUntil(lambda: bool(ended))


def test_napari_may_quit_the_worker(qtbot, runner):
    closed = []

    def steps():
        try:
            yield from endless()
        finally:
            closed.append(True)

    job = runner.start(steps, title="Wait")
    heard = listen(job)
    qtbot.waitUntil(lambda: bool(heard))
    job._worker.quit()
    wait(qtbot, runner)
    assert job.outcome is Outcome.STOPPED
    assert closed == [True]


def test_warnings_for_developers_are_logged_and_not_shown(qtbot, runner, caplog):
    """The garbage collector warns in the thread of the job of files that another plugin has not closed."""

    def steps():
        warnings.warn("unclosed file", ResourceWarning, stacklevel=1)
        warnings.warn("use another function", DeprecationWarning, stacklevel=1)
        yield Message("on the way")
        return 1

    with caplog.at_level("INFO"):
        heard = listen(runner.start(steps, title="Work"))
        wait(qtbot, runner)
    assert [event for event in heard if event[0] == "message"] == [("message", Message("on the way"))]
    assert "ResourceWarning: unclosed file" in caplog.text
    assert "use another function" in caplog.text


def test_a_warning_at_the_end_is_passed_on(qtbot, runner):
    def steps():
        yield Progress("Working", 0, 1)
        warnings.warn("late", stacklevel=1)
        return 5

    job = runner.start(steps, title="Work")
    heard = listen(job)
    wait(qtbot, runner)
    assert ("message", Message("late", warning=True)) in [(kind, *event) for kind, *event in heard]


@pytest.mark.slow
def test_a_finished_job_keeps_no_listener_alive(qtbot, runner):
    class Image:
        pass

    image = Image()
    ref = weakref.ref(image)
    job = runner.start(lambda: (yield Progress("Working", 0, 1)) or iter(()), title="Work")
    job.finished.connect(lambda result, held=image: None)
    job.stopped.connect(lambda text, held=image: None)
    del image
    wait(qtbot, runner)
    gc.collect()
    assert runner.job is job
    assert ref() is None


@pytest.mark.slow
def test_time_left(qtbot, runner):
    def steps():
        for i in range(9):
            yield Progress("Counting", i, 10)
            time.sleep(0.1)
        yield Progress("Counting", 10, 10)

    job = runner.start(steps, title="Count")
    heard = listen(job)
    wait(qtbot, runner)
    left = [event[0].seconds_left for kind, *event in heard if kind == "progress"]
    assert left[0] is None
    assert 0.05 < left[-3] < 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "about 1\u00a0s"), (75, "about 75\u00a0s"), (600, "about 10\u00a0min"), (7200, "about 2.0\u00a0h")],
)
def test_durations_in_words(seconds, text):
    assert in_words(seconds) == text
    assert Running("Training", 3, 10, seconds).text == f"Training: 3 of 10, {text} left"
