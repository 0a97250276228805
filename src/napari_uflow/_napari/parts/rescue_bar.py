"""Offer of the model of an interrupted training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_uflow._napari.parts.panel import push_button, text_label
from napari_uflow._napari.session import settings
from napari_uflow.training.snapshots import describe, discard, interrupted

__all__ = ["RescueBar"]


class RescueBar(QWidget):
    """Offer to resume an interrupted training, to use its model as is, or to discard it; hidden if there is none.

    Signals
    -------
    resume_wanted, use_wanted
        The user chose one of them; `path` is the model file.
    """

    resume_wanted = Signal()
    use_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._path: Path | None = None
        self.label = text_label()
        self.resume_button = push_button(
            "Resume",
            lambda: self.resume_wanted.emit(),
            "Do the remaining steps. Open the images of that training under the same names and tick them below first.",
        )
        self.use_button = push_button(
            "Use as is",
            lambda: self.use_wanted.emit(),
            "Make it the active model. Its number of false alarms is not calibrated.",
        )
        self.discard_button = push_button("Discard", self._discard, "Delete the saved model.")
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
        """The model file that is offered, or None."""
        return self._path

    def offer(self) -> None:
        """Look for the model of an interrupted training, and offer it."""
        self._path = next(iter(interrupted(settings.data_folder())), None)
        self.setVisible(self._path is not None)
        if self._path is not None:
            what = describe(self._path)
            self.label.setText(
                f"An earlier training was interrupted{f' ({what})' if what else ''}; its best model was saved. Resume "
                "the training (open and tick its images first), or use the model as is, without calibrated false "
                "alarms."
            )

    def withdraw(self, result: Any = None) -> None:  # noqa: ARG002 - result of a job
        """Hide the offer."""
        self._path = None
        self.hide()

    def _discard(self) -> None:
        if self._path is not None:
            discard(self._path)
        self.withdraw()
