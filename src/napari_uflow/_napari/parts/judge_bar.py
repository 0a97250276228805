"""The bar that judges the region that is chosen: mark it normal, undo that, refine the model with what was marked."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_uflow._napari.parts.panel import push_button, text_label
from napari_uflow.wording import counted

__all__ = ["JudgeBar"]


class JudgeBar(QWidget):
    """Buttons to mark a region normal, to undo that and to refine the model; and how many regions were marked.

    Signals
    -------
    mark_wanted, undo_wanted, refine_wanted
        A button was pressed.
    """

    mark_wanted = Signal()
    undo_wanted = Signal()
    refine_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.mark_button = push_button(
            "Not an anomaly",
            lambda: self.mark_wanted.emit(),
            "Take the chosen region out of the result, whatever the number of false alarms, and keep it with its "
            "surroundings to train on. Key: Delete, on the table and on the canvas.",
        )
        self.undo_button = push_button(
            "Take back", lambda: self.undo_wanted.emit(), "Bring back the region that was called normal last."
        )
        self.refine_button = push_button(
            "Refine model",
            lambda: self.refine_wanted.emit(),
            "Train the model a little more, on the images it was trained on and on what you called normal. Train "
            "opens and shows how it goes. The model stays as it is until the refined one is done.",
        )
        self.line = text_label()
        buttons = QHBoxLayout()
        for button in (self.mark_button, self.undo_button, self.refine_button):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.line)

    def show_state(self, *, can_mark: bool, can_undo: bool, can_refine: bool, n_marked: int) -> None:
        """Show what can be done, and how many regions were marked normal."""
        self.mark_button.setEnabled(can_mark)
        self.undo_button.setEnabled(can_undo)
        self.refine_button.setEnabled(can_refine)
        self.line.setText(f"{counted(n_marked, 'region')} called normal, kept to train on.")
        self.line.setVisible(n_marked > 0)
