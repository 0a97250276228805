"""Fields to choose the channels of an image with."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLineEdit

from napari_uflow._napari.parts.fields import ChoiceBox, tooltip

__all__ = ["ChannelForm", "channels_box", "chosen_channels"]


def chosen_channels(text: str) -> list[int | str] | None:
    """Return the channels that a text names ("0, 2" or "DAPI, GFP"); None for an empty one."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    return [int(name) if name.isdecimal() else name for name in names] or None


def channels_box(tip: str) -> QLineEdit:
    """Return a field for the channels that `chosen_channels` reads."""
    box = QLineEdit()
    box.setPlaceholderText("all")
    box.setToolTip(tooltip(tip))
    return box


class ChannelForm(QFormLayout):
    """Channels of a layer, and the axis of the layer that they lie on.

    Signals
    -------
    changed
        Another choice was made.
    """

    changed = Signal()

    def __init__(self, tip: str) -> None:
        super().__init__()
        self.channels = channels_box(tip)
        self.axis = ChoiceBox({"by its name": None, "axis 0": 0, "axis 1": 1, "axis 2": 2})
        self.axis.setToolTip(
            tooltip("The axis of the channels. By its name: an axis called c or channel, where there is one.")
        )
        self.addRow("Channels", self.channels)
        self.addRow("Channel axis", self.axis)
        self.channels.textChanged.connect(lambda _: self.changed.emit())
        self.axis.currentIndexChanged.connect(lambda _: self.changed.emit())

    def chosen(self) -> list[int | str] | None:
        """Return the channels; None for all of them."""
        return chosen_channels(self.channels.text())

    def channel_axis(self) -> int | None:
        """Return the axis of the channels; None where the names of the axes tell it."""
        axis: int | None = self.axis.value()
        return axis
