"""Link from the labels layer of a result to a widget: selected label, and keys."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QObject, QTimer, Signal
from qtpy.QtWidgets import QWidget

from napari_uflow._napari.layers.watch import while_alive

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["LabelLink"]

_MS_AFTER_EDIT = 200
_PIXELS_OF_CLICK = 5
"""Farthest that the mouse moves in a click; farther it is a drag, which pans the view."""


class LabelLink(QObject):
    """Follow the selected label and the keys of a labels layer, without keeping the widget alive.

    Parameters
    ----------
    widget : QWidget
        The widget; keys are ignored while it is hidden and after it is closed.
    keys : sequence of str
        Keys on the canvas while the layer is active.

    Signals
    -------
    picked : int
        The user selected a label, or clicked on its region while the layer is active and nothing is painted.
    pressed
        One of the keys was pressed.
    edited
        The user painted or erased, some time ago.
    """

    picked = Signal(int)
    pressed = Signal()
    edited = Signal()

    def __init__(self, widget: QWidget, keys: Sequence[str]) -> None:
        super().__init__(widget)
        self._widget = widget
        self._keys = tuple(keys)
        self._labels: Labels | None = None
        self._is_selecting = False
        self._was_painted = False
        self._click = _click(weakref.ref(self))
        self._editing = QTimer(self)
        self._editing.setSingleShot(True)
        self._editing.setInterval(_MS_AFTER_EDIT)
        self._editing.timeout.connect(self.edited)

    @property
    def labels(self) -> Labels | None:
        """The layer, or None."""
        return self._labels

    def follow(self, labels: Labels | None) -> None:
        """Follow another layer, or none."""
        if self._labels is not None:
            self._labels.events.selected_label.disconnect(self._picked)
            self._labels.events.paint.disconnect(self._painted)
            self._labels.events.set_data.disconnect(self._changed)
            self._labels.mouse_drag_callbacks.remove(self._click)
            for key in self._keys:
                self._labels.bind_key(key, None)
        self._labels = labels
        self._was_painted = False
        if labels is not None:
            labels.events.selected_label.connect(self._picked)
            labels.events.paint.connect(self._painted)
            labels.events.set_data.connect(self._changed)
            labels.mouse_drag_callbacks.append(self._click)
            for key in self._keys:
                labels.bind_key(key, _press(weakref.ref(self)), overwrite=True)

    def select(self, number: int) -> None:
        """Select a label without a signal."""
        if self._labels is None or self._labels.selected_label == number:
            return
        self._is_selecting = True
        try:
            self._labels.selected_label = number
        finally:
            self._is_selecting = False

    @while_alive
    def _picked(self, event: Any = None) -> None:  # noqa: ARG002 - napari's signature
        if not self._is_selecting and self._labels is not None:
            self.picked.emit(int(self._labels.selected_label))

    @while_alive
    def _painted(self, event: Any = None) -> None:  # noqa: ARG002
        self._was_painted = True
        self._editing.start()

    @while_alive
    def _changed(self, event: Any = None) -> None:  # noqa: ARG002
        """Undo and redo signal no more than a move of the slider does."""
        if self._was_painted:
            self._editing.start()

    def _clicked(self, number: int | None) -> None:
        if number and self._widget.isVisible():
            self.select(int(number))
            self.picked.emit(int(number))

    def _press(self) -> None:
        if self._widget.isVisible():
            self.pressed.emit()


def _click(link: weakref.ref[LabelLink]) -> Callable[[Any, Any], Iterator[None]]:
    """Return the action of a click on the canvas, which is no drag; the layer keeps it, so it holds the link weakly."""

    def click(layer: Any, event: Any) -> Iterator[None]:
        if layer.mode != "pan_zoom":
            return
        start = np.asarray(event.pos)
        yield
        while event.type == "mouse_move":
            yield
        target = link()
        if target is None or not isalive(target) or np.linalg.norm(np.asarray(event.pos) - start) > _PIXELS_OF_CLICK:
            return
        value = layer.get_value(
            event.position, view_direction=event.view_direction, dims_displayed=event.dims_displayed, world=True
        )
        target._clicked(value[1] if layer.multiscale and value is not None else value)

    return click


def _press(link: weakref.ref[LabelLink]) -> Callable[[Any], None]:
    """Return the action of a key; the layer keeps it, so it holds the link weakly."""

    def press(layer: Any) -> None:  # noqa: ARG001 - napari's signature
        target = link()
        if target is not None and isalive(target):
            target._press()

    return press
