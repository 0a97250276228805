"""Dialogs for the name of a file or folder."""

from __future__ import annotations

from qtpy.QtWidgets import QApplication, QFileDialog, QWidget

__all__ = ["ask_for_files", "ask_for_folder", "ask_to_open", "ask_to_save"]

IMAGES = "Images (*.tif *.tiff *.lsm *.svs *.ndpi *.btf *.png *.jpg *.jpeg *.bmp)"


def ask_to_open(title: str, kinds: str, parent: QWidget | None = None) -> str:
    """Ask for a file to open; "" if the user cancels."""
    return str(QFileDialog.getOpenFileName(_over(parent), title, "", kinds)[0])


def ask_for_files(title: str, kinds: str = IMAGES, parent: QWidget | None = None) -> list[str]:
    """Ask for files to open; none if the user cancels."""
    return [str(path) for path in QFileDialog.getOpenFileNames(_over(parent), title, "", kinds)[0]]


def ask_for_folder(title: str, parent: QWidget | None = None) -> str:
    """Ask for a folder; "" if the user cancels."""
    return str(QFileDialog.getExistingDirectory(_over(parent), title, ""))


def ask_to_save(title: str, name: str, kinds: str, parent: QWidget | None = None) -> str:
    """Ask for a file to save to; "" if the user cancels."""
    return str(QFileDialog.getSaveFileName(_over(parent), title, _file_name(name), kinds)[0])


def _over(parent: QWidget | None) -> QWidget | None:
    return QApplication.activeWindow() if parent is None else parent.window()


def _file_name(name: str) -> str:
    """Return a name without characters that file systems refuse."""
    return "".join("_" if letter in '<>:"/\\|?*' or ord(letter) < 32 else letter for letter in name).strip(" .")
