"""Building blocks of every dock widget: a panel that scrolls, texts, buttons, sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtGui import QIcon, QShowEvent
from qtpy.QtWidgets import QFormLayout, QFrame, QLabel, QPushButton, QScrollArea, QSizePolicy, QVBoxLayout, QWidget
from superqt import QCollapsible

from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.labels import with_labels

__all__ = [
    "Panel",
    "advanced_section",
    "as_sentence",
    "heading",
    "push_button",
    "run_later",
    "text_label",
]

_LEAST_WIDTH = 300


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


class _AlignedForms(QWidget):
    """Forms below each other whose fields are aligned: all labels have one width."""

    def __init__(self, forms: Sequence[QFormLayout | QWidget]) -> None:
        super().__init__()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self._layouts: list[QFormLayout] = []
        for form in forms:
            if isinstance(form, QWidget):
                layout.addWidget(form)
                self._layouts.append(form.layout())
            else:
                layout.addLayout(form)
                self._layouts.append(form)

    def showEvent(self, event: QShowEvent | None) -> None:  # noqa: N802 - Qt's name
        """Align the labels, whose font is known from now on."""
        super().showEvent(event)
        role = QFormLayout.ItemRole.LabelRole
        items = [form.itemAt(row, role) for form in self._layouts for row in range(form.rowCount())]
        labels = [item.widget() for item in items if item is not None]
        width = max(label.sizeHint().width() for label in labels)
        for label in labels:
            label.setMinimumWidth(width)


def advanced_section(*forms: QFormLayout | QWidget) -> QCollapsible:
    """Return a collapsed section of forms for settings that few people need."""
    section = QCollapsible("", expandedIcon=QIcon(), collapsedIcon=QIcon())  # its icons are black in the dark theme
    section.toggled.connect(lambda is_open: section.setText(f"{'▾' if is_open else '▸'} Advanced"))
    section.setText("▸ Advanced")
    section.setDuration(0)
    section.layout().setContentsMargins(0, 0, 0, 0)
    section.addWidget(_AlignedForms(forms))
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
    """Return a message of the package for the window: capital letter, full stop, and labels of parameters."""
    text = with_labels(text)
    return text[:1].upper() + text[1:] + ("." if text and text[-1] not in ".!?" else "")


def heading(text: str) -> QLabel:
    """Return a label in bold."""
    label = QLabel(text)
    font = label.font()
    font.setBold(True)
    label.setFont(font)
    return label


class Panel(QScrollArea):
    """Dock widget whose content scrolls vertically in a small window; it is never narrower than its content."""

    def __init__(self) -> None:
        super().__init__()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inner = QWidget()
        self.rows = QVBoxLayout(inner)
        self.rows.setContentsMargins(8, 8, 8, 8)
        self.rows.setSpacing(6)
        self.setWidget(inner)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the minimum width of the content beside a scroll bar."""
        content = self.widget().minimumSizeHint().width() + self.verticalScrollBar().sizeHint().width()
        return QSize(max(_LEAST_WIDTH, content), super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the preferred size of the content, at least the minimum width."""
        return super().sizeHint().expandedTo(self.minimumSizeHint())

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802
        """Follow the size of the content."""
        if event is not None and watched == self.widget() and event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return super().eventFilter(watched, event)
