"""Form of the channels, axes and series of files."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLineEdit

from napari_uflow._napari.parts.channels import channels_box, chosen_channels
from napari_uflow._napari.parts.fields import tooltip

__all__ = ["FileAxesForm"]


class FileAxesForm(QFormLayout):
    """Channels to use, axes of files with wrong metadata, and the image to use of files with several.

    Signals
    -------
    changed
        The choice changed.
    """

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.channels = channels_box(
            "Channels that the model was trained on, by name, or by number from 0, for example 0, 2. Empty: all "
            "channels."
        )
        self.axes = QLineEdit()
        self.axes.setPlaceholderText("from the file")
        self.axes.setToolTip(
            tooltip(
                "One letter per axis, for example ZYX or CYX, if the files name their axes wrongly: Y rows, X columns, "
                "C channels, S colours, Z depth, T time."
            )
        )
        self.series = QLineEdit()
        self.series.setPlaceholderText("main images")
        self.series.setToolTip(
            tooltip(
                "One image of files with several, by name or by number from 0, such as a region of a slide. Empty: all "
                "images of a file but labels and overviews."
            )
        )
        self.addRow("Channels", self.channels)
        self.addRow("Axes", self.axes)
        self.addRow("Series", self.series)
        for box in (self.channels, self.axes, self.series):
            box.textChanged.connect(lambda _: self.changed.emit())

    def chosen_channels(self) -> list[int | str] | None:
        """Return the channels; None for all."""
        return chosen_channels(self.channels.text())

    def chosen_axes(self) -> str | None:
        """Return the letters of the axes; None for those of the files."""
        return self.axes.text().strip().upper() or None

    def chosen_series(self) -> str | None:
        """Return the name or number of an image; None for the main ones."""
        return self.series.text().strip() or None

    def set_enabled(self, is_enabled: bool) -> None:
        """Enable or disable the fields."""
        for box in (self.channels, self.axes, self.series):
            box.setEnabled(is_enabled)
