"""The offer of a model that an interrupted training left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_uflow._napari.parts.panel import push_button, text_label
from napari_uflow._napari.session import settings
from napari_uflow._napari.session.autosave import describe, discard, left_behind

__all__ = ["RescueBar"]


class RescueBar(QWidget):
    """Offer to resume a training that was interrupted, to use its model as it is, or to discard it.

    It is hidden where there is none.

    Signals
    -------
    resume_wanted, use_wanted
        The user chose one of them; `path` is the model.
    """

    resume_wanted = Signal()
    use_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None
        self.label = text_label()
        self.resume_button = push_button(
            "Go on",
            lambda: self.resume_wanted.emit(),
            "Open the images of that training, tick them below, and press this: the steps that were left are done.",
        )
        self.use_button = push_button(
            "Use it",
            lambda: self.use_wanted.emit(),
            "Take the model as it is, without a guarantee about its false alarms.",
        )
        self.discard_button = push_button("Discard", self._discard, "Remove the model that was saved.")
        buttons = QHBoxLayout()
        for button in (self.resume_button, self.use_button, self.discard_button):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.label)
        layout.addLayout(buttons)
        self.offer()

    @property
    def path(self) -> Path | None:
        """The model that is offered; None where there is none."""
        return self._path

    def offer(self) -> None:
        """Look for a model that was left behind, and offer it."""
        self._path = left_behind(settings.data_folder())
        self.setVisible(self._path is not None)
        if self._path is not None:
            what = describe(self._path)
            self.label.setText(
                f"A training ended before it was done{f' ({what})' if what else ''}, and its best model up to then was "
                f"saved. Open and tick its images and go on with it, or use the model as it is, without a calibration "
                f"of its false alarms."
            )

    def withdraw(self, result: Any = None) -> None:  # noqa: ARG002 - the model of a job comes here
        """Offer nothing any more."""
        self._path = None
        self.hide()

    def _discard(self) -> None:
        if self._path is not None:
            discard(self._path)
        self.withdraw()
