"""Fields for layers; they follow the layer list of the viewer."""

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
    """Combo box of layers; the first entry can stand for no layer."""

    def __init__(self, watch: LayerWatch, is_wanted: Callable[[Layer], bool], none: str = "") -> None:
        super().__init__()
        self._watch = watch
        self._is_wanted = is_wanted
        self._none = none
        watch.changed.connect(self.refresh)
        self.refresh()

    def refresh(self) -> None:
        """Read the layer list; the choice is kept if its layer is still open."""
        chosen = self.value()
        layers = self._watch.layers(self._is_wanted)
        was_blocked = self.blockSignals(True)
        self.clear()
        if self._none or not layers:
            self.addItem(self._none or "(no image open)", None)
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
    """List of layers with a check box each.

    Signals
    -------
    changed
        Another layer is ticked, or the list changed.
    """

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
        """Return the height of all rows, at most four."""
        n = min(max(self.count(), 2), _ROWS_SHOWN)
        row = max(self.sizeHintForRow(0), self.fontMetrics().height() + 4)
        return QSize(200, n * row + 2 * self.frameWidth() + 4)

    def layers(self) -> list[Any]:
        """Return the ticked layers."""
        ticked = [self.item(i).checkState() == Qt.CheckState.Checked for i in range(self.count())]
        return [layer for layer, is_ticked in zip(self._known, ticked, strict=True) if is_ticked]

    def set_layers(self, layers: Sequence[Layer]) -> None:
        """Tick these layers and no others."""
        wanted = [bare(layer) for layer in layers]
        for i, layer in enumerate(self._known):
            is_wanted = any(layer is other for other in wanted)
            self.item(i).setCheckState(Qt.CheckState.Checked if is_wanted else Qt.CheckState.Unchecked)

    def refresh(self) -> None:
        """Read the layer list and keep the ticks. With `ticks_first` the first layer of an empty list is ticked."""
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
