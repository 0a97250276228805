"""List of files to detect in, with the result of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QColor, QDragEnterEvent, QDropEvent, QPainter, QPaintEvent, QPalette
from qtpy.QtWidgets import (
    QAbstractItemView,
    QHBoxLayout,
    QHeaderView,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.panel import push_button, text_label
from napari_uflow.errors import UFlowError
from napari_uflow.wording import printable

__all__ = ["FileList"]

_PATH = Qt.ItemDataRole.UserRole
_RESULT, _WARNING = 1, 2
_SYMBOL = "⚠"
_NAME_OF_RESULT = re.compile(r"(heatmap|log10_nfa|labels|mask)(\.ome)?\.tiff?$|^(overview|trust)\.png$", re.IGNORECASE)


class FileList(QWidget):
    """List of files, each with its result.

    Signals
    -------
    added : list of Path
        Files were chosen or dropped, including those already on the list.
    changed
        Files were added or removed.
    refused : str
        Reason why files were not added.
    opened : Path
        A file was double-clicked.
    """

    added = Signal(object)
    changed = Signal()
    refused = Signal(str)
    opened = Signal(object)

    def __init__(self) -> None:
        super().__init__()
        self.tree = _Tree()
        self.tree.setHeaderLabels(["File", "Result", "Warning"])
        self.tree.setRootIsDecorated(False)
        self.tree.setUniformRowHeights(True)
        self.tree.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.tree.header().setSectionResizeMode(QHeaderView.ResizeMode.Interactive)
        self.tree.header().setStretchLastSection(True)
        self.tree.header().setMinimumSectionSize(40)
        wide = self.fontMetrics().horizontalAdvance(f"{_SYMBOL} could not be judged")
        self.tree.setColumnWidth(0, 110)
        self.tree.setColumnWidth(_RESULT, wide + 12)
        self.tree.currentItemChanged.connect(self._show_warning)
        self.tree.setMinimumHeight(150)
        self.tree.setToolTip(tooltip("Double-click a row to open the image with its result."))
        self.tree.itemDoubleClicked.connect(lambda item: self.opened.emit(_path_of(item)))
        self.add_files = push_button("Add files...", self._ask_for_files)
        self.add_folder = push_button("Add folder...", self._ask_for_folder)
        self.remove = push_button(
            "Remove", self._remove, "Remove the selected files from the list, or all if none is selected."
        )
        buttons = QHBoxLayout()
        layout = QVBoxLayout(self)
        for box in (buttons, layout):
            box.setContentsMargins(0, 0, 0, 0)
        for button in (self.add_files, self.add_folder, self.remove):
            buttons.addWidget(button)
        layout.addWidget(self.tree, 1)
        self.warning_line = text_label()
        self.warning_line.hide()
        layout.addWidget(self.warning_line)
        layout.addLayout(buttons)

    def set_frozen(self, is_frozen: bool) -> None:
        """Disable or enable changes of the list."""
        for button in (self.add_files, self.add_folder, self.remove):
            button.setEnabled(not is_frozen)

    # ---- files

    def paths(self) -> list[Path]:
        """Return the files, in order."""
        return [_path_of(item) for item in self._items()]

    def add(self, paths: Sequence[str | Path]) -> None:
        """Add files, and the images of folders; files already on the list and results are left out."""
        from napari_uflow.store.images import find_images
        from napari_uflow.store.provenance import is_result

        known = set(self.paths())
        try:
            found = find_images(list(paths))
        except UFlowError as error:
            self.refused.emit(str(error))
            return
        # files are opened only if their names suggest it: a folder on a slow drive must not block the window
        images = [path for path in found if not (_NAME_OF_RESULT.search(path.name) and is_result(path))]
        if not images:
            self.refused.emit(f"'{found[0]}' is a result of a detection: add the images themselves")
            return
        for path in images:
            if path not in known:
                item = QTreeWidgetItem([printable(path.name), "", ""])
                item.setData(0, _PATH, str(path))
                item.setToolTip(0, printable(str(path)))
                self.tree.addTopLevelItem(item)
        self.added.emit(images)
        self.changed.emit()

    def _items(self) -> list[QTreeWidgetItem]:
        items = (self.tree.topLevelItem(i) for i in range(self.tree.topLevelItemCount()))
        return [item for item in items if item is not None]

    def _ask_for_files(self) -> None:
        paths = dialogs.ask_for_files("Images to inspect", parent=self)
        if paths:
            self.add(paths)

    def _ask_for_folder(self) -> None:
        path = dialogs.ask_for_folder("Folder of images to inspect", parent=self)
        if path:
            self.add([path])

    def _remove(self) -> None:
        for item in self.tree.selectedItems() or self._items():
            self.tree.takeTopLevelItem(self.tree.indexOfTopLevelItem(item))
        self.changed.emit()

    def take_drag(self, event: QDragEnterEvent | None) -> None:
        """Accept files that are dragged over the panel."""
        if event is not None and event.mimeData().hasUrls() and self.add_files.isEnabled():
            event.acceptProposedAction()

    def take_drop(self, event: QDropEvent | None) -> None:
        """Add files and folders that are dropped on the panel."""
        if event is not None:
            self.add([url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile()])
            event.acceptProposedAction()

    # ---- results

    def results(self) -> list[str]:
        """Return the result of each file, "" if there is none yet."""
        return [item.text(_RESULT).removeprefix(f"{_SYMBOL} ") for item in self._items()]

    def warnings(self) -> list[str]:
        """Return the warning about the result of each file, "" if there is none."""
        return [item.text(_WARNING) for item in self._items()]

    def clear_results(self) -> None:
        """Clear all results and warnings."""
        for i in range(self.tree.topLevelItemCount()):
            self.set_result(i, "")

    def set_result(self, i: int, text: str, warning: str = "") -> None:
        """Set the result of the i-th file, and what limits it: the result then has a warning sign."""
        item = self.tree.topLevelItem(i)
        if item is not None:
            shown = f"{_SYMBOL} {text}" if warning else text
            for column, value in ((_RESULT, shown), (_WARNING, warning)):
                item.setText(column, value)
                item.setToolTip(column, tooltip(": ".join(filter(None, (shown, warning)))) if value else "")
            self._show_warning()

    def _show_warning(self) -> None:
        """Show the whole warning about the current file below the list."""
        item = self.tree.currentItem()
        text = "" if item is None else item.text(_WARNING)
        self.warning_line.setText(f"{_SYMBOL} {item.text(0)}: {text}." if item is not None and text else "")
        self.warning_line.setVisible(bool(text))


class _Tree(QTreeWidget):
    """List that says what to do with it while it is empty."""

    def paintEvent(self, event: QPaintEvent | None) -> None:  # noqa: N802 - Qt's name
        """Draw the list, or the hint."""
        super().paintEvent(event)
        if not self.topLevelItemCount():
            painter = QPainter(self.viewport())
            colour = QColor(self.palette().color(QPalette.ColorRole.WindowText))
            colour.setAlphaF(0.6)
            painter.setPen(colour)
            painter.drawText(self.viewport().rect(), int(Qt.AlignmentFlag.AlignCenter), "Drop files or folders here")


def _path_of(item: QTreeWidgetItem) -> Path:
    return Path(item.data(0, _PATH))
