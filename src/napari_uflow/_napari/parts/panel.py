"""The parts that all dock widgets are made of: a panel that scrolls, the bar of the model, the bar of the job."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QFileDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_uflow._napari.parts.form import tooltip
from napari_uflow._napari.session.jobs import Job, JobRunner, Outcome, Running, State
from napari_uflow.errors import UFlowError
from napari_uflow.progress import Message
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow._napari.session.session import Session

__all__ = [
    "JobBar",
    "ModelBar",
    "Panel",
    "advanced_section",
    "as_sentence",
    "heading",
    "push_button",
    "run_later",
    "text_label",
]

_MOST_MESSAGES = 8


class _TextLabel(QLabel):
    """A text that takes the width it is given, and no more height than it then needs."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setTextFormat(Qt.TextFormat.PlainText)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return a line; Qt's own hint is that of a narrow column."""
        return QSize(0, self.fontMetrics().height())


def text_label(text: str = "") -> QLabel:
    """Return a label whose text is broken into lines and may be copied."""
    return _TextLabel(text)


def advanced_section(content: QWidget) -> QCollapsible:
    """Return a section that is folded up at first, for what few people need."""
    section = QCollapsible("Advanced")
    section.setDuration(0)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.addWidget(content)
    section.collapse(animate=False)
    return section


def push_button(title: str, run: Callable[[], object], tip: str = "") -> QPushButton:
    """Return a button that runs something, with its tooltip."""
    button = QPushButton(title)
    if tip:
        button.setToolTip(tooltip(tip))
    button.clicked.connect(run)
    return button


def run_later(parent: QWidget, ms: int, run: Callable[[], object]) -> QTimer:
    """Return a timer that, each time it is started, runs something once after `ms` milliseconds."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(run)
    return timer


def as_sentence(text: str) -> str:
    """Return a message with a capital letter at its start."""
    return text[:1].upper() + text[1:]


def heading(text: str) -> QLabel:
    """Return a label in bold."""
    label = QLabel(text)
    font = label.font()
    font.setBold(True)
    label.setFont(font)
    return label


class Panel(QScrollArea):
    """A dock widget: its content scrolls where the window is small."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setMinimumWidth(300)
        inner = QWidget()
        self.rows = QVBoxLayout(inner)
        self.rows.setContentsMargins(8, 8, 8, 8)
        self.rows.setSpacing(6)
        self.setWidget(inner)


class ModelBar(QWidget):
    """Which model is active: its name, backbone and held-out specimens; and buttons to open and to save one."""

    failed = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.label = text_label()
        self.open_button = push_button(
            "Open...", self._open, "Open a model file (.safetensors). Nothing in it is executed."
        )
        self.save_button = push_button(
            "Save...", self._save, "Save the active model to a file that works on other computers."
        )
        buttons = QHBoxLayout()
        buttons.addWidget(heading("Active model"))
        buttons.addStretch()
        buttons.addWidget(self.open_button)
        buttons.addWidget(self.save_button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.label)
        session.model_changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Tell of the active model."""
        model = self._session.model
        self.save_button.setEnabled(model is not None)
        if model is None:
            self.label.setText("No model yet: train one, or open a model file.")
            return
        n_specimens = len(model.record.holdout_specimens)
        place = self._session.model_path
        self.label.setText(
            f"{self._session.model_name} ({model.config.backbone}, {counted(n_specimens, 'field')} held out"
            f"{'' if place else ', not saved to a file'})"
        )
        record = model.record
        self.label.setToolTip(tooltip(f"Trained {record.date or 'unknown'}, {record.outcome.text()}. {place or ''}"))

    def _open(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Open a model", "", "Models (*.safetensors)")
        if path:
            self._try(lambda: self._session.start_opening(path).failed.connect(self.failed))

    def _save(self) -> None:
        name = f"{self._session.model_name or 'model'}.safetensors"
        path, _ = QFileDialog.getSaveFileName(self, "Save the model", name, "Models (*.safetensors)")
        if path:
            self._try(lambda: self._session.save_model(Path(path)))

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except UFlowError as error:
            self.failed.emit(str(error))


class JobBar(QWidget):
    """The button that starts and stops a job, how far it is, and what it has to say.

    Parameters
    ----------
    runner : JobRunner
        Of the viewer. While it runs the job of another widget, the button waits.
    title : str
        What the button says while nothing runs.
    start : callable
        Starts the job and returns it; what it raises is shown.
    tells : callable, optional
        Whether it shows a message of the job; all of them by default.
    titles : collection of str
        A job of such a title that already runs is taken for its own: the panel was closed and opened again.
    """

    def __init__(
        self,
        runner: JobRunner,
        title: str,
        start: Callable[[], Job],
        tells: Callable[[Message], bool] = lambda message: True,  # noqa: ARG005
        titles: Collection[str] = (),
    ) -> None:
        super().__init__()
        self._tells = tells
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
        """The job that it started last."""
        return self._job

    def set_ready(self, is_ready: bool) -> None:
        """Say whether all that a job needs is there."""
        self._is_ready = is_ready
        self._refresh()

    def say(self, text: str) -> None:
        """Show a sentence under the button; "" takes it away."""
        self.status.setText(as_sentence(text))
        self.status.setVisible(bool(text))

    def refuse(self, text: str) -> None:
        """Say why nothing was started; it is taken away once what was missing is there."""
        self.say(text)
        self._refusal = self.status.text()

    def clear_refusal(self) -> None:
        """Take away why nothing was started."""
        if self._refusal and self.status.text() == self._refusal:
            self.say("")
        self._refusal = ""

    def warn(self, text: str) -> None:
        """Show a sentence that the user should look at twice."""
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
        """Start a job and follow it; what `start` raises is shown."""
        if self._runner.state is State.IDLE:  # or what the job says that runs would be lost
            self._texts = []
            self.messages.hide()
            self.say("")
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
        job.failed.connect(self.say)
        job.stopped.connect(self.say)
        job.ended.connect(self._ended)
        self.bar.setRange(0, 0)
        self.bar.show()
        self.say(f"{job.title} begins...")
        self._refresh()

    def _progress(self, running: Running) -> None:
        self.bar.setRange(0, running.total)
        self.bar.setValue(running.done)
        if self._runner.state is not State.FINISHING:
            self._last_progress = running.text
            self.say(running.text)

    def _message(self, message: Message) -> None:
        if not self._tells(message):
            return
        if message.warning:
            self.warn(message.full_text)
        else:
            self.say(message.full_text)
            self._last_progress = self.status.text()

    def _ended(self, outcome: Outcome) -> None:
        self.bar.hide()
        if self.status.text() == self._last_progress:
            self.say("" if outcome is Outcome.DONE else "Stopped.")

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
            self.button.setText(f"{self._title} (waits for: {running})")
            self.button.setEnabled(False)
