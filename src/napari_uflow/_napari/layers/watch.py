"""Watch on the layer list of a viewer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject, Signal

from napari_uflow._napari.layers.axes import bare

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

__all__ = ["LayerWatch", "while_alive"]


def while_alive(method: Callable[[Any, Any], None]) -> Callable[..., None]:
    """Decorate a method to ignore napari events once its Qt object was deleted; Python may keep it longer."""

    @wraps(method)
    def call(self: Any, event: Any = None) -> None:
        if isalive(self):
            method(self, event)

    return call


class LayerWatch(QObject):
    """Signal for layers that are added, removed, reordered or renamed; removed layers are not kept alive.

    Signals
    -------
    changed
        The list changed.
    """

    changed = Signal()

    def __init__(self, viewer: Viewer, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer = viewer
        events = viewer.layers.events
        events.inserted.connect(self._inserted)
        events.removed.connect(self._removed)
        events.reordered.connect(self._tell)
        for layer in viewer.layers:
            layer.events.name.connect(self._tell)

    def layers(self, is_wanted: Callable[[Layer], bool]) -> list[Any]:
        """Return the layers of one kind, the topmost first."""
        return [bare(layer) for layer in reversed(list(self._viewer.layers)) if is_wanted(layer)]

    @while_alive
    def _inserted(self, event: Any) -> None:
        event.value.events.name.connect(self._tell)
        self.changed.emit()

    @while_alive
    def _removed(self, event: Any) -> None:
        event.value.events.name.disconnect(self._tell)
        self.changed.emit()

    @while_alive
    def _tell(self, event: Any = None) -> None:  # noqa: ARG002 - napari's signature
        self.changed.emit()
