"""Fields of forms: a choice, a number, a tooltip. The mouse wheel scrolls the form and does not change values."""

from __future__ import annotations

import html
import math
from typing import Any

from qtpy.QtCore import QEvent, QObject, Qt
from qtpy.QtGui import QValidator, QWheelEvent
from qtpy.QtWidgets import QComboBox, QDoubleSpinBox, QWidget

__all__ = ["ChoiceBox", "NumberBox", "WheelGuard", "tooltip"]

# A spin box rounds to its decimals; these keep 1e-7.
_DECIMALS = 15


def tooltip(text: str) -> str:
    """Return a tooltip as rich text, which Qt wraps; it does not wrap plain text."""
    return f"<qt>{html.escape(text)}</qt>"


class _NoWheel:
    """Mixin that ignores the wheel without the focus: scrolling a form must not change its values."""

    def wheelEvent(self, event: QWheelEvent) -> None:  # noqa: N802 - Qt's name
        if self.hasFocus():  # type: ignore[attr-defined]
            super().wheelEvent(event)  # type: ignore[misc]
        else:
            event.ignore()


class ChoiceBox(_NoWheel, QComboBox):
    """Combo box whose entries have values."""

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
        """Choose the entry with this value, if there is one."""
        for i in range(self.count()):
            if self.itemData(i) == value:
                self.setCurrentIndex(i)
                return


class NumberBox(_NoWheel, QDoubleSpinBox):
    """Spin box of a real number in its shortest form: 0.001, 1e-05."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setKeyboardTracking(False)
        self.setDecimals(_DECIMALS)

    def textFromValue(self, value: float) -> str:  # noqa: N802
        """Return a number as text."""
        return f"{value:.10g}"

    def valueFromText(self, text: str | None) -> float:  # noqa: N802
        """Return the number of a text, with or without its unit."""
        return self._number(text or "")

    def validate(self, text: str | None, position: int) -> tuple[QValidator.State, str, int]:
        """Return whether a text is a number in the range; an incomplete one, such as "1e-", may be completed."""
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
        """Return the nearest allowed number; the last valid one if the text is not a number."""
        number = self._number(text or "")
        number = self.value() if math.isnan(number) else min(max(number, self.minimum()), self.maximum())
        return f"{self.textFromValue(number)}{self.suffix()}"


class WheelGuard(QObject):
    """Event filter that keeps the wheel from fields without the focus: it scrolls the form."""

    def eventFilter(self, watched: QObject | None, event: QEvent | None) -> bool:  # noqa: N802 - Qt's name
        """Ignore wheel events of fields without the focus; pass all other events."""
        if event is None or event.type() != QEvent.Type.Wheel or not isinstance(watched, QWidget) or watched.hasFocus():
            return False
        event.ignore()
        return True
