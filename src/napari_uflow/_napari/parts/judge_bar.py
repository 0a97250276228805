"""Bar to correct a result: mark the selected region normal, undo that, refine the model, and discard edits by hand."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from napari_uflow._napari.parts.panel import push_button, text_label
from napari_uflow.wording import counted

__all__ = ["JudgeBar"]


class JudgeBar(QWidget):
    """Buttons to mark a region normal, undo that, refine the model and discard edits; and the number of marked regions.

    Signals
    -------
    mark_wanted, undo_wanted, refine_wanted, discard_wanted
        A button was pressed.
    """

    mark_wanted = Signal()
    undo_wanted = Signal()
    refine_wanted = Signal()
    discard_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.mark_button = push_button(
            "Mark normal",
            lambda: self.mark_wanted.emit(),
            "The selected region is a false positive: remove it from the result, at any number of accepted false "
            "alarms, and keep it with its surroundings for the next Refine or Train. Key: Delete, on the table and on "
            "the canvas.",
        )
        self.undo_button = push_button(
            "Undo", lambda: self.undo_wanted.emit(), "Restore the last region that was marked normal."
        )
        self.refine_button = push_button(
            "Refine model",
            lambda: self.refine_wanted.emit(),
            "Fine-tune the active model on its training images and the regions marked normal. Train opens and shows "
            "the progress. The current model stays active until the refined one is done.",
        )
        self.discard_button = push_button(
            "Discard edits",
            lambda: self.discard_wanted.emit(),
            "Show the regions as they were detected, without those painted, extended or erased by hand in the labels "
            "layer. Undo of the layer (Ctrl+Z on the canvas) restores the edits.",
        )
        self.line = text_label()
        buttons = QHBoxLayout()
        for button in (self.mark_button, self.undo_button, self.refine_button):
            buttons.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(buttons)
        layout.addWidget(self.discard_button)
        layout.addWidget(self.line)

    def show_state(
        self, *, can_mark: bool, can_undo: bool, can_refine: bool, n_marked: int, has_edits: bool = False
    ) -> None:
        """Enable the buttons, and show the number of regions marked normal."""
        self.mark_button.setEnabled(can_mark)
        self.undo_button.setEnabled(can_undo)
        self.refine_button.setEnabled(can_refine)
        self.discard_button.setVisible(has_edits)
        self.line.setText(f"{counted(n_marked, 'region')} marked normal, used at the next Refine or Train.")
        self.line.setVisible(n_marked > 0)
