"""Fields of forms: a choice, a number, a tooltip. The mouse wheel scrolls the form and leaves their values alone."""

from __future__ import annotations

import html
import math
from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QValidator, QWheelEvent
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QWidget

__all__ = ["ChoiceBox", "NumberBox", "WheelGuard", "tooltip"]

# A spin box rounds to its decimals; with these 1e-7 stays what it is.
_DECIMALS = 15


def tooltip(text: str) -> str:
    """Return a tooltip that Qt breaks into lines: only rich text is broken."""
    return f"<qt>{html.escape(text)}</qt>"


class _NoWheel:
    """A field that the wheel changes only after a click on it: scrolling a form must not change its values."""

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        if self.hasFocus():  # type: ignore[attr-defined]
            super().wheelEvent(event)  # type: ignore[misc]
        else:
            event.ignore()


class ChoiceBox(_NoWheel, QComboBox):
    """A choice among texts; each entry has its value as data."""

    def __init__(self, entries: dict[str, Any] | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        for text, value in (entries or {}).items():
            self.addItem(text, value)

    def value(self) -> Any:
        """Return the value of the chosen entry."""
        return self.currentData()

    def set_value(self, value: Any) -> None:
        """Choose the entry with a value, if there is one."""
        for i in range(self.count()):
            if self.itemData(i) == value:
                self.setCurrentIndex(i)
                return


class NumberBox(_NoWheel, QDoubleSpinBox):
    """A real number, written as short as it can be: 0.001, 1e-05."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setKeyboardTracking(False)
        self.setDecimals(_DECIMALS)

    def textFromValue(self, value: float) -> str:  # noqa: N802
        """Return a number as text."""
        return f"{value:.10g}"

    def valueFromText(self, text: str | None) -> float:  # noqa: N802
        """Return the number that a text says, the unit behind it or not."""
        return self._number(text or "")

    def validate(self, text: str | None, position: int) -> tuple[QValidator.State, str, int]:
        """Tell whether a text is a number in the range; half a number, such as "1e-", may be typed on."""
        text = text or ""
        number = self._number(text)
        is_in = math.isfinite(number) and self.minimum() <= number <= self.maximum()
        return (QValidator.State.Acceptable if is_in else QValidator.State.Intermediate), text, position

    def _number(self, text: str) -> float:
        try:
            return float(text.removesuffix(self.suffix()).strip().replace(",", "."))
        except ValueError:
            return math.nan

    def fixup(self, text: str | None) -> str:
        """Take the nearest number that is allowed; go back to the last good one where there was none."""
        number = self._number(text or "")
        number = self.value() if math.isnan(number) else min(max(number, self.minimum()), self.maximum())
        return f"{self.textFromValue(number)}{self.suffix()}"


class WheelGuard(QObject):
    """Keeps the wheel from fields that were not clicked on: it scrolls the form."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Let everything else through."""
        if event is None or event.type() != QEvent.Type.Wheel or not isinstance(watched, QWidget) or watched.hasFocus():
            return False
        event.ignore()
        return True
