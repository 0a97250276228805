"""Messages of a job bar go when they no longer apply."""

from pathlib import Path

import numpy as np
import pytest

from napari_uflow._napari.parts.job_bar import JobBar
from napari_uflow._napari.session.runner import JobRunner, State
from napari_uflow.progress import Message, or_stop


@pytest.fixture
def bar(qtbot):
    runner = JobRunner()
    is_done = []

    def steps():
        yield Message("something differs", warning=True)
        while not is_done:
            yield from or_stop(Message("Working"))
        return "result"

    bar = JobBar(runner, "Work", lambda: runner.start(steps, title="Working"))
    qtbot.addWidget(bar)
    yield bar, is_done
    is_done.append(True)
    qtbot.waitUntil(lambda: runner.state is State.IDLE, timeout=5000)


def test_messages_of_the_last_job_are_cleared_but_not_those_of_a_running_one(bar, qtbot):
    bar, is_done = bar
    bar.button.click()
    qtbot.waitUntil(lambda: bar.status.text() == "Working", timeout=5000)
    bar.clear()
    assert "Something differs." in bar.messages.text()
    assert not bar.messages.isHidden()
    is_done.append(True)
    qtbot.waitUntil(lambda: bar.button.text() == "Work", timeout=5000)
    bar.say("Saved 'x'.")
    assert not bar.messages.isHidden()
    bar.clear()
    assert bar.messages.isHidden()
    assert bar.status.isHidden()
    bar.warn("another")
    assert bar.messages.text() == "⚠ Another."


def test_messages_about_other_things_are_cleared(qtbot):
    bar = JobBar(JobRunner(), "Work", lambda: None)
    qtbot.addWidget(bar)
    model, other = np.zeros(2), np.zeros(2)  # which have no single truth value when compared
    for things, is_other in (
        ((model, Path("a")), True),
        ((model, Path("a")), False),
        ((other, Path("a")), True),
        ((other, Path("b")), True),
        ((other, Path("b"), Path("c")), True),
    ):
        bar.warn("a message")
        assert bar.are_about(*things) is is_other
        assert bar.messages.isHidden() is is_other
