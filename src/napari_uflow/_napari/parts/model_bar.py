"""The bar of the active model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFileDialog, QHBoxLayout, QVBoxLayout, QWidget

from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.parts.panel import heading, push_button, text_label
from napari_uflow.errors import UFlowError
from napari_uflow.wording import counted

if TYPE_CHECKING:
    from napari_uflow._napari.session.session import Session

__all__ = ["ModelBar"]


class ModelBar(QWidget):
    """Name, backbone and held-out specimens of the active model, with buttons to open and save a model.

    Signals
    -------
    failed : str
        Reason why a model was not opened or saved.
    """

    failed = Signal(str)

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session
        self.label = text_label()
        self.open_button = push_button(
            "Open...", self._open, "Open a model file (.safetensors). Model files contain no executable code."
        )
        self.save_button = push_button(
            "Save...", self._save, "Save the active model to a file (.safetensors) for other sessions and computers."
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
        """Show the active model."""
        model = self._session.model
        self.save_button.setEnabled(model is not None)
        if model is None:
            self.label.setText("No model: train one or open a model file.")
            return
        n_specimens = len(model.record.counted_specimens)
        place = self._session.model_path
        self.label.setText(
            f"{self._session.model_name} ({model.config.backbone}, {counted(n_specimens, 'specimen')} held out"
            f"{'' if place else ', not saved'})"
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
