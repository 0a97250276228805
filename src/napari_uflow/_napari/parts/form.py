"""A form of the parameters that ``config.py`` describes: one field each, with label, range, step, unit and tooltip."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Generic, TypeVar

from magicgui.widgets import CheckBox, ComboBox, FloatSpinBox, LineEdit, SpinBox
from magicgui.widgets.bases import ValueWidget
from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QFormLayout, QWidget

from napari_uflow._napari.parts.fields import WheelGuard, tooltip
from napari_uflow._napari.parts.labels import label_of, with_labels
from napari_uflow.config import Config, Parameter, parameters_of
from napari_uflow.errors import ConfigError

__all__ = ["ConfigForm"]

C = TypeVar("C", bound=Config)

# A number that needs more is a text field.
_MOST_DECIMALS = 4


class ConfigForm(QWidget, Generic[C]):
    """Form of magicgui fields for the parameters of a configuration.

    Parameters
    ----------
    config : type
        ModelConfig, TrainingConfig or DetectionConfig.
    shown : callable, optional
        Decides whether a parameter gets a field; all do by default. The others keep the values of the last
        `set_config`.
    parent : QWidget, optional
        The widget it is part of.

    Attributes
    ----------
    fields : dict of str to magicgui widget
        By the name of the parameter. Numbers over many decades are text fields, so that 1e-05 can be read and typed.

    Signals
    -------
    changed
        A value changed.
    """

    changed = Signal()

    def __init__(
        self,
        config: type[C],
        *,
        shown: Callable[[Parameter], bool] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._config: C = config()
        self._parameters: dict[str, Parameter] = {}
        self.fields: dict[str, ValueWidget[Any]] = {}
        guard = WheelGuard(self)
        layout = QFormLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for parameter in parameters_of(config):
            if shown is not None and not shown(parameter):
                continue
            field = _field(parameter)
            field.changed.connect(self._tell)
            field.native.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
            field.native.installEventFilter(guard)
            layout.addRow(label_of(parameter.name, parameter.unit), field.native)
            layout.labelForField(field.native).setToolTip(field.tooltip)
            self._parameters[parameter.name] = parameter
            self.fields[parameter.name] = field
        self.set_config(self._config)

    def config(self) -> C:
        """Return the configuration.

        Raises
        ------
        ConfigError
            If a text is not a number, or a number is out of its range.
        """
        values = {name: _value(self._parameters[name], field) for name, field in self.fields.items()}
        return self._config.replace(**values)

    def set_config(self, config: C) -> None:
        """Show a configuration; `changed` is emitted once."""
        self._config = config
        was_blocked = self.blockSignals(True)
        try:
            for name, field in self.fields.items():
                _set_value(self._parameters[name], field, getattr(config, name))
        finally:
            self.blockSignals(was_blocked)
        self.changed.emit()

    def _tell(self) -> None:
        self.changed.emit()


def _help(parameter: Parameter) -> str:
    allowed = f" Allowed: {parameter.range_text}." if parameter.type in (int, float) and parameter.range_text else ""
    return with_labels(f"{parameter.help}{allowed}")


def _is_over_decades(parameter: Parameter) -> bool:
    """Return whether no fixed number of decimals fits the values of a parameter."""
    if parameter.type is not float:
        return False
    known = [value for value in (parameter.default, parameter.low, parameter.high, parameter.step) if value is not None]
    return max(map(_decimals, known)) > _MOST_DECIMALS or max(known) > 1000 * (parameter.step or 1)


def _field(parameter: Parameter) -> ValueWidget[Any]:
    text: dict[str, Any] = {"name": parameter.name, "tooltip": tooltip(_help(parameter))}
    if parameter.choices:
        box = ComboBox(choices=parameter.choices, **text)
        box.native.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        return box
    if parameter.type is bool:
        return CheckBox(text=" ", **text)
    if parameter.type is str or _is_over_decades(parameter):
        return LineEdit(**text)
    number = parameter.type
    low, high = number(parameter.low or 0), number(parameter.high if parameter.high is not None else 2**31 - 1)
    kind = SpinBox if number is int else FloatSpinBox
    spin: ValueWidget[Any] = kind(value=low, min=low, max=high, step=number(parameter.step or 1), **text)
    spin.native.setKeyboardTracking(False)
    if number is float:
        known = (parameter.default, parameter.low, parameter.high, parameter.step)
        spin.native.setDecimals(max(_decimals(value) for value in known if value is not None))
    return spin


def _decimals(value: float) -> int:
    """Return the number of decimals that a value needs, 1 at least."""
    exponent = Decimal(repr(float(value))).normalize().as_tuple().exponent
    return max(1, -exponent) if isinstance(exponent, int) else 1


def _value(parameter: Parameter, field: ValueWidget[Any]) -> Any:
    if not _is_over_decades(parameter):
        return field.value
    try:
        return float(field.value.strip().replace(",", "."))
    except ValueError as error:
        raise ConfigError(
            f"{parameter.name} must be a number such as {parameter.default}, not '{field.value}'"
        ) from error


def _set_value(parameter: Parameter, field: ValueWidget[Any], value: Any) -> None:
    if _is_over_decades(parameter):
        value = f"{value:.15g}"
    elif isinstance(field, FloatSpinBox):  # a spin box would round it
        field.native.setDecimals(max(field.native.decimals(), _decimals(value)))
    field.value = value
