"""Bar to export a result: files, a script, a paragraph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QApplication, QHBoxLayout, QMenu, QPushButton, QWidget

from napari_uflow._napari.contributions.export import EXPORTS, as_methods_text, as_python, export
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.session import Session
from napari_uflow.errors import UFlowError

if TYPE_CHECKING:
    from napari.layers import Image

__all__ = ["ExportBar"]


class ExportBar(QWidget):
    """Export a result to a file, or copy a script that repeats it or a paragraph that describes it.

    Parameters
    ----------
    session : Session
        Session of the viewer.
    chosen_plane : callable
        Returns the index of the plane of the selected region; None without one.

    Signals
    -------
    reported : str
        Outcome, or reason of a failure.
    """

    reported = Signal(str)

    def __init__(self, session: Session, chosen_plane: Callable[[], tuple[int, ...] | None]) -> None:
        super().__init__()
        self._session = session
        self._chosen_plane = chosen_plane
        self._result: LayerDetection | None = None
        self.export_button, export_menu = _menu_button("Export", "Save the result to a file.")
        self.export_actions = {kind: export_menu.addAction(title) for kind, (title, _, _) in EXPORTS.items()}
        for kind, action in self.export_actions.items():
            action.triggered.connect(partial(self._export_of_menu, kind))
        self.copy_button, copy_menu = _menu_button(
            "Copy", "Copy a script that repeats the analysis, or a paragraph for your methods section."
        )
        self.copy_python = copy_menu.addAction("Copy Python script")
        self.copy_python.triggered.connect(self._copy_python)
        self.copy_methods = copy_menu.addAction("Copy methods text")
        self.copy_methods.triggered.connect(self._copy_methods)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for button in (self.export_button, self.copy_button):
            layout.addWidget(button)

    def show_result(self, result: LayerDetection | None) -> None:
        """Set the result."""
        self._result = result
        self.export_button.setEnabled(result is not None)
        self.copy_button.setEnabled(result is not None)

    def export(self, kind: str) -> None:
        """Ask for a file name, and save the result as one of `EXPORTS`."""
        result = self._result
        if result is None:
            return
        title, end, kinds = EXPORTS[kind]
        path = dialogs.ask_to_save(title.rstrip("."), result.image_name + end, kinds, parent=self)
        if not path:
            return
        try:
            self.reported.emit(f"Saved '{export(kind, path, result, self._image(result))}'.")
        except UFlowError as error:
            self.reported.emit(str(error))

    def _export_of_menu(self, kind: str, checked: bool = False) -> None:  # noqa: ARG002 - Qt's signature
        self.export(kind)

    def _image(self, result: LayerDetection) -> Image | None:
        viewer = self._session.viewer
        return None if viewer is None else result.image_in(viewer)

    def _copy_python(self) -> None:
        result = self._result
        if result is not None:
            chosen = self._chosen_plane()
            index = result.planes[0][0] if chosen is None else chosen
            self._copy(lambda: as_python(result, self._session, index, self._image(result)), "Script")

    def _copy_methods(self) -> None:
        self._copy(lambda: as_methods_text(self._result, self._session), "Paragraph")

    def _copy(self, make: Callable[[], str], what: str) -> None:
        try:
            text = make()
        except UFlowError as error:
            self.reported.emit(str(error))
            return
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        self.reported.emit(f"{what} copied to the clipboard.")


def _menu_button(title: str, tip: str) -> tuple[QPushButton, QMenu]:
    """Return a button that opens a menu, and the menu."""
    button = QPushButton(title)
    menu = QMenu(button)
    button.setMenu(menu)
    button.setToolTip(tooltip(tip))
    return button, menu
