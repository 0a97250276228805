"""Fields to choose layers with; they follow the layer list of the viewer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QListWidget, QListWidgetItem, QSizePolicy

from napari_uflow._napari.layers.axes import bare
from napari_uflow._napari.layers.watch import LayerWatch
from napari_uflow._napari.parts.fields import ChoiceBox

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["LayerBox", "LayerChecks"]

_ROWS_SHOWN = 4


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
