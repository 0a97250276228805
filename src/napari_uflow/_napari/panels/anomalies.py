"""The Anomalies widget: the table of what was found, tied to the view; what is no anomaly; and what leaves napari."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.compat import isalive
from qtpy.QtCore import QSize, Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QApplication, QHBoxLayout, QMenu, QPushButton, QShortcut

from napari_uflow._napari.contributions.export import EXPORTS, as_methods_text, as_python, export
from napari_uflow._napari.layers.axes import bare, finest
from napari_uflow._napari.layers.navigate import go_to
from napari_uflow._napari.layers.place import place_of
from napari_uflow._napari.layers.watch import LayerWatch, while_alive
from napari_uflow._napari.parts import dialogs
from napari_uflow._napari.parts.anomaly_table import RegionRow, RegionsTable
from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow._napari.parts.panel import Panel, as_sentence, heading, push_button, text_label
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.results import relabel
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow.errors import ImageError, UFlowError
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

__all__ = ["RegionsWidget"]

_KEYS = ("Delete", "Backspace")
"""What calls a region normal, on the table and on the canvas where the anomalies are the active layer; napari has no
other use for these keys on labels."""
_WIDTH = 480
_TILE = 256
"""Side of what is trained on around a region, where there is no model to ask."""


class RegionsWidget(Panel):
    """The anomalies of a result as a table.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer, given by napari.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._session = session_of(napari_viewer)
        self._known = marked_normal_of(self._session)
        self._watch = LayerWatch(napari_viewer, self)
        self._labels: Labels | None = None
        self._is_moving = False

        self.results = ChoiceBox()
        self.results.setToolTip(tooltip("Which result; it follows the layer list."))
        self.results.currentIndexChanged.connect(self._take_result)
        self.summary = text_label()
        self.table = RegionsTable()
        self.table.setToolTip(
            tooltip("A click or the arrow keys move the view to an anomaly; a click on one in the view finds its row.")
        )
        self.table.chosen.connect(self._chosen)
        self.table.clicked.connect(lambda _: self._show(self.table.current()))

        self.normal_button = push_button(
            "Not an anomaly",
            self.mark_normal,
            "Take the chosen region out of the result, whatever the number of false alarms, and keep it with its "
            "surroundings to train on. Key: Delete, on the table and on the canvas.",
        )
        self.back_button = push_button(
            "Take back", self.undo_mark_normal, "Bring back the region that was called normal last."
        )
        self.normal_line = text_label()
        self.refine_button = push_button(
            "Refine model",
            self.refine,
            "Train the model a little more, on the images it was trained on and on what you called normal. Train "
            "opens and shows how it goes. The model stays as it is until the refined one is done.",
        )
        for key in _KEYS:
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(self.mark_normal)

        self.export_button = QPushButton("Export")
        self.export_menu = QMenu(self.export_button)
        self.export_actions = {kind: self.export_menu.addAction(title) for kind, (title, _, _) in EXPORTS.items()}
        for kind, action in self.export_actions.items():
            action.triggered.connect(partial(self._export_of_menu, kind))
        self.copy_button = QPushButton("Copy")
        self.copy_menu = QMenu(self.copy_button)
        self.copy_python = self.copy_menu.addAction("Copy as Python")
        self.copy_python.triggered.connect(self._copy_python)
        self.copy_methods = self.copy_menu.addAction("Copy methods text")
        self.copy_methods.triggered.connect(self._copy_methods)
        for button, menu, text in (
            (self.export_button, self.export_menu, "Save what was found to a file."),
            (self.copy_button, self.copy_menu, "A script that does it again, or a paragraph for your paper."),
        ):
            button.setMenu(menu)
            button.setToolTip(tooltip(text))
        self.status = text_label()

        top = QHBoxLayout()
        top.addWidget(heading("Anomalies in"))
        top.addWidget(self.results, 1)
        self.rows.addLayout(top)
        self.rows.addWidget(self.summary)
        self.rows.addWidget(self.table, 1)
        judge, leave = QHBoxLayout(), QHBoxLayout()
        for widget in (self.normal_button, self.back_button):
            judge.addWidget(widget)
        for other in (self.refine_button, self.export_button, self.copy_button):
            leave.addWidget(other)
        self.rows.addLayout(judge)
        self.rows.addWidget(self.normal_line)
        self.rows.addLayout(leave)
        self.rows.addWidget(self.status)

        self._session.results_changed.connect(self._refresh)
        self._known.changed.connect(self._refresh)
        self._session.model_changed.connect(self._enable)
        self._session.runner.state_changed.connect(self._enable)
        self._watch.changed.connect(self._refresh)
        napari_viewer.layers.selection.events.active.connect(self._follow_active)
        self._refresh()
        self._follow_active()

    def sizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return room for all columns."""
        return QSize(_WIDTH, super().sizeHint().height())

    # ---- which result

    @property
    def result(self) -> LayerDetection | None:
        """The result that the table shows."""
        return self._session.result_of(self._labels)

    def _refresh(self) -> None:
        """Take over the results; the choice stays if its layer does, a new one is chosen."""
        layers = list(self._session.results)
        before = [self.results.itemData(i) for i in range(self.results.count())]
        new = [layer for layer in layers if not any(layer is other for other in before)]
        chosen = new[-1] if new else self.results.value()
        was_blocked = self.results.blockSignals(True)
        self.results.clear()
        for layer in layers:
            self.results.addItem(layer.name, layer)
        self.results.set_value(chosen if chosen in layers else (layers[-1] if layers else None))
        self.results.blockSignals(was_blocked)
        self._take_result()

    def _take_result(self) -> None:
        labels = self.results.value() if self.results.count() else None
        if labels is not self._labels:
            self._unbind()
            self._labels = labels
            self._bind()
            self.say("")
        result = self.result
        self.table.show_result(result)
        self._select(self.table.current())
        rows = self.table.rows()
        self.summary.setText(_summary(result, rows))
        self.results.setEnabled(self.results.count() > 0)
        self.back_button.setEnabled(labels is not None and self._known.last_of(labels) is not None)
        n = len(self._known)
        self.normal_line.setText(f"{counted(n, 'region')} called normal, kept to train on.")
        self.normal_line.setVisible(n > 0)
        self.export_button.setEnabled(result is not None)
        self.copy_button.setEnabled(result is not None)
        self._enable()

    def _enable(self) -> None:
        self.normal_button.setEnabled(self.table.current() is not None)
        is_idle = self._session.runner.state is State.IDLE
        self.refine_button.setEnabled(self._session.model is not None and len(self._known) > 0 and is_idle)

    def _bind(self) -> None:
        if self._labels is None:
            return
        self._labels.events.selected_label.connect(self._follow_label)
        for key in _KEYS:
            self._labels.bind_key(key, _mark_normal_in(weakref.ref(self)), overwrite=True)

    def _unbind(self) -> None:
        if self._labels is None:
            return
        self._labels.events.selected_label.disconnect(self._follow_label)
        for key in _KEYS:
            self._labels.bind_key(key, None)

    @while_alive
    def _follow_active(self, event: Any = None) -> None:  # noqa: ARG002 - napari's signature
        result = self._session.result_of(self._viewer.layers.selection.active)
        if result is not None:
            self.results.set_value(result.labels)

    # ---- table and view

    def _chosen(self, row: RegionRow | None) -> None:
        self._enable()
        self._show(row)

    def _show(self, row: RegionRow | None) -> None:
        """Move the view to an anomaly."""
        if row is None or self._labels is None or self._labels not in self._viewer.layers:
            return
        self._select(row)
        values = row.values
        # a pixel reaches half a pixel beyond its centre
        low = np.array([*row.index, values["first_row"] - 0.5, values["first_col"] - 0.5])
        high = np.array([*row.index, values["stop_row"] - 0.5, values["stop_col"] - 0.5])
        go_to(self._viewer, self._labels, low, high)

    def _select(self, row: RegionRow | None) -> None:
        """Select the label of a row in the layer."""
        if row is None or self._labels is None or self._labels.selected_label == row.number:
            return
        self._is_moving = True
        try:
            self._labels.selected_label = row.number
        finally:
            self._is_moving = False

    @while_alive
    def _follow_label(self, event: Any = None) -> None:  # noqa: ARG002 - napari's signature
        if not self._is_moving and self._labels is not None:
            self.table.follow(int(self._labels.selected_label))
            self._enable()

    # ---- what is no anomaly

    def mark_normal(self) -> None:
        """Take the chosen region out of the result, and keep it to train on."""
        row, result, labels = self.table.current(), self.result, self._labels
        if row is None or result is None or labels is None:
            return
        from napari_uflow.detection.corrections import mark_normal

        number = result.first_labels[[index for index, _ in result.planes].index(row.index)]
        place_in_table = self.table.currentIndex().row()
        model = self._session.model
        try:
            place = place_of(self._image(result), labels, row.index)
            found, correction = mark_normal(
                dict(result.planes)[row.index],
                row.number - number,
                place.plane,
                side=_TILE if model is None else model.config.tile,
                specimen=place.specimen,
            )
            self._change(result, row.index, found)
        except UFlowError as error:
            self.say(str(error))
            return
        self._known.add(labels, row.index, correction)
        self.say("")
        self.table.choose(min(place_in_table, len(self.table.rows()) - 1))

    def undo_mark_normal(self) -> None:
        """Bring back the region that was called normal last."""
        result, last = self.result, self._known.last_of(self._labels)
        if result is None or last is None:
            return
        from napari_uflow.detection.corrections import undo_mark_normal

        index, correction = last
        found = undo_mark_normal(dict(result.planes)[index], correction)
        self._change(result, index, found)
        self._known.remove(correction)
        number = int(finest(result.labels)[index][correction.rows[0], correction.cols[0]])
        for i, row in enumerate(self.table.rows()):
            if row.number == number:
                self.table.choose(i)

    def refine(self) -> None:
        """Open the Train widget, and let it refine the model with what was called normal."""
        dock, train = self._viewer.window.add_plugin_dock_widget("napari-uflow", "Train", tabify=True)
        dock.show()
        dock.raise_()
        train.refine_as_trained()

    def _change(self, result: LayerDetection, index: tuple[int, ...], found: Any) -> None:
        """Put another detection in place of a plane's, in the layers and in the session."""
        finest(result.log10_nfa)[index] = found.log10_nfa
        result.log10_nfa.refresh()
        # the layer is the memory: the detection looks into it
        found = replace(found, log10_nfa=finest(result.log10_nfa)[index])
        planes = tuple((at, found if at == index else other) for at, other in result.planes)
        relabel(self._session, replace(result, planes=planes), found.false_alarms)

    def _image(self, result: LayerDetection) -> Image:
        image = self._image_or_none(result)
        if image is None:
            raise ImageError(f"the image '{result.image_name}' is no longer open: open it and detect again")
        return image

    # ---- what leaves napari

    def export(self, kind: str) -> None:
        """Ask for a name, and save a result as one of `EXPORTS`."""
        result = self.result
        if result is None:
            return
        title, end, kinds = EXPORTS[kind]
        path = dialogs.ask_to_save(title.rstrip("."), result.image_name + end, kinds, parent=self)
        if not path:
            return
        try:
            self.say(f"Saved '{export(kind, path, result, self._image_or_none(result))}'.")
        except UFlowError as error:
            self.say(str(error))

    def _export_of_menu(self, kind: str, checked: bool = False) -> None:  # noqa: ARG002 - Qt's signature
        self.export(kind)

    def _image_or_none(self, result: LayerDetection) -> Image | None:
        return result.image_in(bare(self._viewer))

    def _copy_python(self) -> None:
        result, row = self.result, self.table.current()
        if result is not None:
            index = result.planes[0][0] if row is None else row.index
            self._copy(lambda: as_python(result, self._session, index, self._image_or_none(result)), "The script")

    def _copy_methods(self) -> None:
        self._copy(lambda: as_methods_text(self.result, self._session), "The paragraph")

    def _copy(self, make: Any, what: str) -> None:
        try:
            text = make()
        except UFlowError as error:
            self.say(str(error))
            return
        clipboard = QApplication.clipboard()
        if clipboard is not None:
            clipboard.setText(text)
        self.say(f"{what} is in the clipboard.")

    def say(self, text: str) -> None:
        """Show a sentence at the end; "" takes it away."""
        self.status.setText(as_sentence(text))
        self.status.setVisible(bool(text))


def _mark_normal_in(widget: weakref.ref[RegionsWidget]) -> Callable[[Any], None]:
    """Return what a key of the layer does: nothing once the widget is closed, which the layer does not keep alive."""

    def mark_normal(layer: Any) -> None:  # noqa: ARG001 - napari's signature
        target = widget()
        if target is not None and isalive(target) and target.isVisible():
            target.mark_normal()

    return mark_normal


def _summary(result: LayerDetection | None, rows: list[RegionRow]) -> str:
    if result is None:
        return "Nothing yet: find anomalies with Detect."
    n, n_planes = len(rows), len(result.planes)
    n_found = len(Counter(row.index for row in rows))
    where = f" in {n_found} of {n_planes} planes" if n_planes > 1 else ""
    found = result.planes[0][1]
    counted_on = found.config.counted_on(found.n_planes)
    accepted = f"{counted(found.false_alarms, 'false alarm')} per {counted_on} accepted"
    if not n:
        return f"No anomalies; {accepted}."
    return f"{n} anomal{'ies' if n != 1 else 'y'}{where}; {accepted}."
