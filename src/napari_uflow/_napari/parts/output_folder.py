"""Field of the output folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QLineEdit, QWidget

from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.panel import push_button

__all__ = ["OutputFolder"]

_NAME = "anomalies"


class OutputFolder(QWidget):
    """Output folder, typed or chosen; the default is beside the first image.

    Signals
    -------
    changed
        The folder changed.
    """

    changed = Signal()

    def __init__(self, tip: str) -> None:
        super().__init__()
        self.box = QLineEdit()
        self.box.setPlaceholderText("beside the images")
        self.box.setToolTip(tooltip(tip))
        self.choose_button = push_button("Choose...", self._ask)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.box)
        layout.addWidget(self.choose_button)
        self.box.textChanged.connect(lambda _: self.changed.emit())

    def path(self) -> str:
        """Return the folder; "" if there is none."""
        return self.box.text().strip()

    def propose(self, images: Sequence[Path]) -> None:
        """Set a folder beside the first image, if there is none."""
        if images and not self.path():
            self.box.setText(str(images[0].parent / _NAME))

    def _ask(self) -> None:
        path = dialogs.ask_for_folder("Output folder", parent=self)
        if path:
            self.box.setText(path)
