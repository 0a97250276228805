"""The bar of a job: its button, its progress, and its messages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from qtpy.compat import isalive
from qtpy.QtWidgets import QProgressBar, QPushButton, QVBoxLayout, QWidget

from napari_uflow._napari.parts.panel import as_sentence, text_label
from napari_uflow._napari.session.job import Job, Running
from napari_uflow._napari.session.libraries import are_loaded
from napari_uflow._napari.session.runner import JobRunner, State
from napari_uflow._napari.session.worker import Outcome
from napari_uflow.errors import UFlowError
from napari_uflow.progress import Message

__all__ = ["JobBar"]

_MOST_MESSAGES = 8


class JobBar(QWidget):
    """Button that starts and stops a job, progress bar, status line, and warnings.

    Parameters
    ----------
    runner : JobRunner
        Of the viewer. While it runs a job of another widget, the button is disabled.
    title : str
        Text of the button while no job runs.
    start : callable
        Starts the job and returns it; its errors are shown.
    shows : callable, optional
        Decides whether a message of the job is shown; all are by default.
    titles : collection of str
        A running job with one of these titles is followed from the beginning: the panel was closed and opened again.
    """

    def __init__(
        self,
        runner: JobRunner,
        title: str,
        start: Callable[[], Job],
        shows: Callable[[Message], bool] = lambda message: True,  # noqa: ARG005
        titles: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._shows = shows
        self._runner = runner
        self._title = title
        self._start = start
        self._job: Job | None = None
        self._is_ready = True
        self.button = QPushButton(title)
        font = self.button.font()
        font.setBold(True)
        self.button.setFont(font)
        self.button.setMinimumHeight(32)
        self.button.clicked.connect(self._clicked)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setFixedHeight(10)
        self.bar.hide()
        self.status = text_label()
        self.status.hide()
        self.messages = text_label()
        self.messages.hide()
        self._texts: list[str] = []
        self._refusal = ""
        self._last_progress = ""
        self._things: tuple[object, ...] = ()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self.button, self.bar, self.status, self.messages):
            layout.addWidget(widget)
        runner.state_changed.connect(self._refresh)
        if runner.state is not State.IDLE and runner.job is not None and runner.job.title in titles:
            self._follow(runner.job)
        self._refresh()

    @property
    def job(self) -> Job | None:
        """The job that was started last."""
        return self._job

    def set_ready(self, is_ready: bool) -> None:
        """Enable the button if a job has everything it needs."""
        self._is_ready = is_ready
        self._refresh()

    def say(self, text: str) -> None:
        """Show a sentence under the button; "" hides it."""
        self._show(as_sentence(text))

    def say_when_done(self, job: Job, text_of: Callable[[Any], str]) -> None:
        """Show a sentence about the result of a job, unless this bar is closed before its end."""

        def say(result: Any) -> None:
            if isalive(self):
                self.say(text_of(result))

        job.finished.connect(say)

    def _show(self, text: str) -> None:
        self.status.setText(text)
        self.status.setVisible(bool(text))

    def refuse(self, text: str) -> None:
        """Show why there is no result, until `clear_refusal` is called."""
        self.say(text)
        self._refusal = self.status.text()

    def clear_refusal(self) -> None:
        """Hide why there was no result, because the user made another choice."""
        if self._refusal and self.status.text() == self._refusal:
            self.say("")
        self._refusal = ""

    def are_about(self, *things: object) -> bool:
        """Clear the messages if they were about other things, such as another model or image, and return whether."""
        before, self._things = self._things, things
        is_same = len(before) == len(things) and all(map(_is_same, before, things))
        if not is_same:
            self.clear()
        return not is_same

    def clear(self) -> None:
        """Hide all messages of the last job, because they no longer apply; those of a running one stay."""
        if self._runner.state is State.IDLE or not self._is_own():
            self._texts = []
            self.messages.hide()
            self._refusal = ""
            self.say("")

    def warn(self, text: str) -> None:
        """Show a warning."""
        text = as_sentence(text)
        if text not in self._texts:
            self._texts = [*self._texts, text][-_MOST_MESSAGES:]
        self.messages.setText("\n".join(f"⚠ {text}" for text in self._texts))
        self.messages.show()

    def _is_own(self) -> bool:
        return self._job is not None and self._runner.job is self._job

    def _clicked(self) -> None:
        if self._runner.state is not State.IDLE:
            self._runner.stop()
        else:
            self.run(self._start)

    def run(self, start: Callable[[], Job]) -> None:
        """Start a job and follow it; errors of `start` are shown."""
        self.clear()
        try:
            job = start()
        except UFlowError as error:
            self.refuse(str(error))
            return
        self._follow(job)

    def _follow(self, job: Job) -> None:
        self._job = job
        job.progress.connect(self._progress)
        job.message.connect(self._message)
        job.failed.connect(self.refuse)
        job.stopped.connect(self.refuse)
        job.ended.connect(self._ended)
        self.bar.setRange(0, 0)
        self.bar.show()
        self.say("Starting..." if are_loaded() else "Loading libraries...")
        self._refresh()

    def _progress(self, running: Running) -> None:
        self.bar.setRange(0, running.total)
        self.bar.setValue(running.done)
        if self._runner.state is not State.FINISHING:
            self._last_progress = running.text
            self._show(running.text)

    def _message(self, message: Message) -> None:
        if not self._shows(message):
            return
        if message.warning:
            self.warn(message.full_text)
        else:
            self._last_progress = message.full_text
            self._show(message.full_text)

    def _ended(self, outcome: Outcome) -> None:
        self.bar.hide()
        if self.status.text() == self._last_progress:
            self.refuse("" if outcome is Outcome.DONE else "Stopped.")

    def _refresh(self) -> None:
        state = self._runner.state
        if state is State.IDLE:
            self.button.setText(self._title)
            self.button.setEnabled(self._is_ready)
            self.button.setToolTip("")
        elif self._is_own():
            self.button.setText("Stop" if state is State.RUNNING else "Stopping...")
            self.button.setEnabled(state is State.RUNNING)
        else:
            running = self._runner.job.title if self._runner.job is not None else "Another job"
            self.button.setText(f"{self._title} (waiting for: {running})")
            self.button.setEnabled(False)


def _is_same(a: object, b: object) -> bool:
    """Return whether two things are the same; models and layers are compared as objects, names by their text."""
    return a is b or (isinstance(a, str | Path) and a == b)
