"""Building blocks of every dock widget: a panel that scrolls, texts, buttons, sections."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import QFrame, QLabel, QPushButton, QScrollArea, QSizePolicy, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.labels import with_labels

__all__ = ["Panel", "advanced_section", "as_sentence", "heading", "push_button", "run_later", "text_label"]


class _TextLabel(QLabel):
    """Label that wraps its text to the width it is given, and needs no more height than that."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.setWordWrap(True)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setTextFormat(Qt.TextFormat.PlainText)
        policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Preferred)
        policy.setHeightForWidth(True)
        self.setSizePolicy(policy)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the height of one line; Qt's own hint is that of a narrow column."""
        return QSize(0, self.fontMetrics().height())


def text_label(text: str = "") -> QLabel:
    """Return a label whose text wraps and can be copied."""
    return _TextLabel(text)


def advanced_section(content: QWidget) -> QCollapsible:
    """Return a collapsed section for settings that few people need."""
    section = QCollapsible("Advanced")
    section.setDuration(0)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.addWidget(content)
    section.collapse(animate=False)
    return section


def push_button(title: str, run: Callable[[], object], tip: str = "") -> QPushButton:
    """Return a button that calls `run`, with its tooltip."""
    button = QPushButton(title)
    if tip:
        button.setToolTip(tooltip(tip))
    button.clicked.connect(run)
    return button


def run_later(parent: QWidget, ms: int, run: Callable[[], object]) -> QTimer:
    """Return a timer that calls `run` once, `ms` milliseconds after its last start."""
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(ms)
    timer.timeout.connect(run)
    return timer


def as_sentence(text: str) -> str:
    """Return a message of the package for the window: with a capital letter, and with labels of parameters."""
    text = with_labels(text)
    return text[:1].upper() + text[1:]


def heading(text: str) -> QLabel:
    """Return a label in bold."""
    label = QLabel(text)
    font = label.font()
    font.setBold(True)
    label.setFont(font)
    return label


class Panel(QScrollArea):
    """Dock widget whose content scrolls in a small window."""

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
