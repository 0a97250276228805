"""Messages of a job bar go when they no longer apply."""

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
