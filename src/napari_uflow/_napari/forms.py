"""A form from the parameters as ``config.py`` describes them: one field each, with range, step, unit and tooltip."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from qtpy.QtCore import Qt, Signal
from qtpy.QtGui import QValidator, QWheelEvent
from qtpy.QtWidgets import (
    QAbstractSpinBox,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFormLayout,
    QLineEdit,
    QSpinBox,
    QWidget,
)

from napari_uflow.config import Config, Parameter, parameters_of

__all__ = ["ChoiceBox", "ConfigForm", "NumberBox", "WholeBox", "tooltip"]

C = TypeVar("C", bound=Config)

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


class WholeBox(_NoWheel, QSpinBox):
    """A whole number."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setKeyboardTracking(False)


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

    def fixup(self, text: str | None) -> str:  # noqa: ARG002 - Qt's signature
        """Go back to the last good number."""
        return f"{self.textFromValue(self.value())}{self.suffix()}"


class ConfigForm(QWidget, Generic[C]):
    """Fields for the parameters of a configuration.

    Parameters
    ----------
    config : type
        ModelConfig, TrainingConfig or DetectionConfig.
    shown : callable, optional
        Whether a parameter gets a field; all do by default. The others keep the values of the last `set_config`.
    labels : dict of str to str, optional
        What to call some of the parameters.
    parent : QWidget, optional
        The widget it is part of.
    """

    changed = Signal()

    def __init__(
        self,
        config: type[C],
        *,
        shown: Callable[[Parameter], bool] | None = None,
        labels: dict[str, str] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._class = config
        self._config: C = config()
        self.fields: dict[str, QWidget] = {}
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        layout.setRowWrapPolicy(QFormLayout.RowWrapPolicy.WrapLongRows)
        for parameter in parameters_of(config):
            if shown is not None and not shown(parameter):
                continue
            field = _field(parameter)
            _signal(field).connect(self.changed)
            field.setToolTip(tooltip(_help(parameter)))
            label = (labels or {}).get(parameter.name) or parameter.name.replace("_", " ").capitalize()
            layout.addRow(label, field)
            layout.labelForField(field).setToolTip(field.toolTip())
            self.fields[parameter.name] = field
        self.set_config(self._config)

    def config(self) -> C:
        """Return what the form says."""
        return self._config.replace(**{name: _value(field) for name, field in self.fields.items()})

    def set_config(self, config: C) -> None:
        """Show a configuration; `changed` is emitted once."""
        self._config = config
        was_blocked = self.blockSignals(True)
        try:
            for name, field in self.fields.items():
                _set_value(field, getattr(config, name))
        finally:
            self.blockSignals(was_blocked)
        self.changed.emit()


def _help(parameter: Parameter) -> str:
    allowed = f" Allowed: {parameter.range_text}." if parameter.type in (int, float) and parameter.range_text else ""
    return f"{parameter.help}{allowed} ({parameter.name})"


def _field(parameter: Parameter) -> QWidget:
    if parameter.choices:
        return ChoiceBox({choice: choice for choice in parameter.choices})
    if parameter.type is bool:
        return QCheckBox()
    if parameter.type is str:
        return QLineEdit()
    box: QSpinBox | QDoubleSpinBox = WholeBox() if parameter.type is int else NumberBox()
    number = parameter.type
    box.setRange(number(parameter.low or 0), number(parameter.high if parameter.high is not None else 2**31 - 1))
    low = parameter.low or 0
    if parameter.type is float and parameter.high is not None and parameter.high > 1000 * max(low, 1e-3):
        box.setStepType(QAbstractSpinBox.StepType.AdaptiveDecimalStepType)
    elif parameter.step is not None:
        box.setSingleStep(number(parameter.step))
    if parameter.unit:
        box.setSuffix(f" {parameter.unit}")
    return box


def _value(field: QWidget) -> Any:
    if isinstance(field, ChoiceBox):
        return field.value()
    if isinstance(field, QCheckBox):
        return field.isChecked()
    if isinstance(field, QLineEdit):
        return field.text()
    return field.value()


def _set_value(field: QWidget, value: Any) -> None:
    if isinstance(field, ChoiceBox):
        field.set_value(value)
    elif isinstance(field, QCheckBox):
        field.setChecked(value)
    elif isinstance(field, QLineEdit):
        field.setText(value)
    else:
        field.setValue(value)


def _signal(field: QWidget) -> Any:
    if isinstance(field, ChoiceBox):
        return field.currentIndexChanged
    if isinstance(field, QCheckBox):
        return field.toggled
    if isinstance(field, QLineEdit):
        return field.textChanged
    return field.valueChanged
