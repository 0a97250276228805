"""Fields to choose layers with; they follow the layer list of the viewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from qtpy.compat import isalive
from qtpy.QtCore import QObject, QSize, Qt, Signal
from qtpy.QtWidgets import QFormLayout, QLineEdit, QListWidget, QListWidgetItem, QSizePolicy

from napari_uflow._napari.layers.axes import bare
from napari_uflow._napari.parts.form import ChoiceBox, tooltip

if TYPE_CHECKING:
    from napari.layers import Layer
    from napari.viewer import Viewer

__all__ = [
    "ChannelForm",
    "LayerBox",
    "LayerChecks",
    "LayerWatch",
    "channels_box",
    "chosen_channels",
    "is_area",
    "is_image_layer",
    "while_alive",
]

_ROWS_SHOWN = 4


def while_alive(method: Callable[[Any, Any], None]) -> Callable[..., None]:
    """Let a method that napari's events call do nothing once its widget was closed; Python may hold it longer."""

    @wraps(method)
    def call(self: Any, event: Any = None) -> None:
        if isalive(self):
            method(self, event)

    return call


def is_image_layer(layer: Layer) -> bool:
    """Return whether a layer is an image that is no result of ours."""
    from napari.layers import Image

    return isinstance(bare(layer), Image) and "napari_uflow" not in layer.metadata


def is_area(layer: Layer) -> bool:
    """Return whether a layer can mark an area: labels that are no result of ours, or shapes."""
    from napari.layers import Labels, Shapes

    return isinstance(bare(layer), (Labels, Shapes)) and "napari_uflow" not in layer.metadata


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
    """Which channels of a layer are looked at, and on which of its axes they lie."""

    def __init__(self, tip: str) -> None:
        super().__init__()
        self.channels = channels_box(tip)
        self.axis = ChoiceBox({"by its name": None, "axis 0": 0, "axis 1": 1, "axis 2": 2})
        self.axis.setToolTip(
            tooltip("The axis of the channels. By its name: an axis called c or channel, where there is one.")
        )
        self.addRow("Channels", self.channels)
        self.addRow("Channel axis", self.axis)


class LayerWatch(QObject):
    """Tells when layers come, go, or get another name. Holds no layer that was removed."""

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
        """Return the layers of a kind, the topmost first."""
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


class LayerBox(ChoiceBox):
    """A choice of one layer, or of none under a text of its own."""

    def __init__(self, watch: LayerWatch, is_wanted: Callable[[Layer], bool], none: str = "") -> None:
        super().__init__()
        self._watch = watch
        self._is_wanted = is_wanted
        self._none = none
        watch.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Take over the layer list; the choice stays if its layer does."""
        chosen = self.value()
        layers = self._watch.layers(self._is_wanted)
        was_blocked = self.blockSignals(True)
        self.clear()
        if self._none or not layers:
            self.addItem(self._none or "(no such layer)", None)
        for layer in layers:
            self.addItem(layer.name, layer)
        self.set_layer(chosen if chosen in layers else None)
        self.blockSignals(was_blocked)
        if self.value() is not chosen:
            self.currentIndexChanged.emit(self.currentIndex())

    def set_layer(self, layer: Layer | None) -> None:
        """Choose a layer."""
        for i in range(self.count()):
            if self.itemData(i) is bare(layer):
                self.setCurrentIndex(i)
                return


class LayerChecks(QListWidget):
    """A list of layers with a tick at each that is chosen."""

    changed = Signal()

    def __init__(self, watch: LayerWatch, is_wanted: Callable[[Layer], bool], *, ticks_first: bool = True) -> None:
        super().__init__()
        self._watch = watch
        self._is_wanted = is_wanted
        self._ticks_first = ticks_first
        self._known: list[Any] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        watch.changed.connect(self.refresh)
        self.itemChanged.connect(lambda _: self.changed.emit())
        self.refresh()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return room for as many rows as there are, up to four."""
        n = min(max(self.count(), 2), _ROWS_SHOWN)
        row = max(self.sizeHintForRow(0), self.fontMetrics().height() + 4)
        return QSize(200, n * row + 2 * self.frameWidth() + 4)

    def layers(self) -> list[Any]:
        """Return the chosen layers."""
        ticked = [self.item(i).checkState() == Qt.CheckState.Checked for i in range(self.count())]
        return [layer for layer, is_ticked in zip(self._known, ticked, strict=True) if is_ticked]

    def set_layers(self, layers: Sequence[Layer]) -> None:
        """Choose layers."""
        wanted = [bare(layer) for layer in layers]
        for i, layer in enumerate(self._known):
            is_wanted = any(layer is other for other in wanted)
            self.item(i).setCheckState(Qt.CheckState.Checked if is_wanted else Qt.CheckState.Unchecked)

    def refresh(self) -> None:
        """Take over the layer list; ticks stay. The first layer that comes is ticked, where that was asked for."""
        chosen = self.layers()
        before = self._known
        self._known = self._watch.layers(self._is_wanted)
        if self._ticks_first and not before and self._known:
            chosen = self._known[:1]
        was_blocked = self.blockSignals(True)
        self.clear()
        for layer in self._known:
            item = QListWidgetItem(layer.name)
            item.setFlags(Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsUserCheckable)
            is_chosen = any(layer is other for other in chosen)
            item.setCheckState(Qt.CheckState.Checked if is_chosen else Qt.CheckState.Unchecked)
            self.addItem(item)
        self.blockSignals(was_blocked)
        self.updateGeometry()
        self.changed.emit()
