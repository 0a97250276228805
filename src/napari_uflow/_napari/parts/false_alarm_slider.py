"""Slider of the accepted false alarms."""

from __future__ import annotations

import math

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QHBoxLayout, QSlider, QWidget

from napari_uflow._napari.parts.fields import NumberBox, tooltip

__all__ = ["FalseAlarmSlider"]

_LOWEST, _HIGHEST = 0.001, 10.0
_PER_DECADE = 50
# Width of the buttons and borders of a spin box in napari's style, in pixels.
_ROOM_FOR_BUTTONS = 72


class FalseAlarmSlider(QWidget):
    """Slider and number box of the accepted false alarms per image or stack, 0.001 to 10 on a logarithmic scale."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.slider = QSlider(Qt.Orientation.Horizontal)
        self.slider.setRange(round(math.log10(_LOWEST) * _PER_DECADE), round(math.log10(_HIGHEST) * _PER_DECADE))
        self.slider.setPageStep(_PER_DECADE // 2)
        self.box = NumberBox()
        self.box.setRange(_LOWEST, _HIGHEST)
        self.box.setStepType(NumberBox.StepType.AdaptiveDecimalStepType)
        self.box.setFixedWidth(self.box.fontMetrics().horizontalAdvance("0.001") + _ROOM_FOR_BUTTONS)
        self.count_on("image")
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.slider, 1)
        layout.addWidget(self.box)
        self.changed = self.box.valueChanged
        self.slider.valueChanged.connect(self._slid)
        self.box.valueChanged.connect(self._typed)
        self.set_value(value)

    def count_on(self, counted_on: str) -> None:
        """Set the unit of the number, "image" or "stack", for tooltips."""
        help_text = tooltip(
            f"Accepted false alarms per normal {counted_on}, on average. With a lower number only regions that are "
            f"very unlikely in a normal {counted_on} are reported. The regions are updated at once, without the "
            "network."
        )
        self.slider.setAccessibleName(f"Accepted false alarms per {counted_on}")
        self.slider.setToolTip(help_text)
        self.box.setToolTip(help_text)

    def value(self) -> float:
        """Return the number of false alarms."""
        return self.box.value()

    def set_value(self, value: float) -> None:
        """Set the number of false alarms."""
        self.box.setValue(min(max(value, _LOWEST), _HIGHEST))

    def _slid(self, position: int) -> None:
        value = float(f"{10 ** (position / _PER_DECADE):.2g}")
        if round(math.log10(self.box.value()) * _PER_DECADE) != position:
            self.box.setValue(min(max(value, _LOWEST), _HIGHEST))

    def _typed(self, value: float) -> None:
        was_blocked = self.slider.blockSignals(True)
        self.slider.setValue(round(math.log10(value) * _PER_DECADE))
        self.slider.blockSignals(was_blocked)
