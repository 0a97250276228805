"""Fields for the channels of an image."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QFormLayout, QLineEdit

from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow.image.channels import channels_in

__all__ = ["ChannelForm", "channels_box", "chosen_channels"]


def chosen_channels(text: str) -> list[int | str] | None:
    """Return the channels in a text ("0, 2" or "DAPI, GFP"); None for an empty one."""
    return channels_in(text) or None


def channels_box(tip: str) -> QLineEdit:
    """Return a text field that `chosen_channels` reads."""
    box = QLineEdit()
    box.setPlaceholderText("all")
    box.setToolTip(tooltip(tip))
    return box


class ChannelForm(QFormLayout):
    """Channels of a layer, and the axis that holds them.

    Signals
    -------
    changed
        The choice changed.
    """

    changed = Signal()

    def __init__(self, tip: str) -> None:
        super().__init__()
        self.channels = channels_box(tip)
        self.axis = ChoiceBox({"by axis name": None, "axis 0": 0, "axis 1": 1, "axis 2": 2})
        self.axis.setToolTip(
            tooltip("Axis of the layer that holds the channels. By axis name: the axis named c or channel, if any.")
        )
        self.addRow("Channels", self.channels)
        self.addRow("Channel axis", self.axis)
        self.channels.textChanged.connect(lambda _: self.changed.emit())
        self.axis.currentIndexChanged.connect(lambda _: self.changed.emit())

    def chosen(self) -> list[int | str] | None:
        """Return the channels; None for all."""
        return chosen_channels(self.channels.text())

    def channel_axis(self) -> int | None:
        """Return the axis of the channels; None to decide by axis name."""
        axis: int | None = self.axis.value()
        return axis
