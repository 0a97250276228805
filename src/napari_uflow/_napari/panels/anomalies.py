"""The Anomalies widget: a table linked to the view, corrections by eye, and export."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QHBoxLayout, QShortcut

from napari_uflow._napari.layers.navigate import go_to
from napari_uflow._napari.layers.watch import LayerWatch, while_alive
from napari_uflow._napari.parts.anomaly_rows import AnomalyRow
from napari_uflow._napari.parts.anomaly_table import AnomalyTable
from napari_uflow._napari.parts.export_bar import ExportBar
from napari_uflow._napari.parts.fields import ChoiceBox, tooltip
from napari_uflow._napari.parts.judge_bar import JudgeBar
from napari_uflow._napari.parts.label_link import LabelLink
from napari_uflow._napari.parts.panel import Panel, as_sentence, heading, text_label
from napari_uflow._napari.session import judging
from napari_uflow._napari.session.layer_detection import LayerDetection
from napari_uflow._napari.session.marked_normal import marked_normal_of
from napari_uflow._napari.session.results import show_features
from napari_uflow._napari.session.runner import State
from napari_uflow._napari.session.session import session_of
from napari_uflow.errors import UFlowError
from napari_uflow.wording import counted

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Labels

__all__ = ["AnomaliesWidget"]

_KEYS = ("Delete", "Backspace")
"""Keys that mark a region normal, on the table and on the canvas if the anomalies are the active layer; napari does not
use them on labels."""


class AnomaliesWidget(Panel):
    """Review, correct and export the anomalies of a result.

    Parameters
    ----------
    napari_viewer : Viewer
        The viewer; napari passes it.
    """

    def __init__(self, napari_viewer: napari.viewer.Viewer) -> None:
        super().__init__()
        self._viewer = napari_viewer
        self._session = session_of(napari_viewer)
        self._marked = marked_normal_of(self._session)
        self._watch = LayerWatch(napari_viewer, self)
        self._link = LabelLink(self, _KEYS)
        self._has_edits = False

        self.results = ChoiceBox()
        self.results.setToolTip(tooltip("Result to review; it follows the active layer."))
        self.summary = text_label()
        self.table = AnomalyTable()
        self.table.setToolTip(
            tooltip(
                "Click a row or use the arrow keys to move the view there. Pick a region in the view to find its row."
            )
        )
        for key in _KEYS:
            shortcut = QShortcut(QKeySequence(key), self.table)
            shortcut.setContext(Qt.ShortcutContext.WidgetShortcut)
            shortcut.activated.connect(self.mark_normal)
        self.judge_bar = JudgeBar()
        self.export_bar = ExportBar(self._session, self._chosen_plane)
        self.status = text_label()

        top = QHBoxLayout()
        top.addWidget(heading("Anomalies in"))
        top.addWidget(self.results, 1)
        self.rows.addLayout(top)
        self.rows.addWidget(self.summary)
        self.rows.addWidget(self.table, 1)
        for widget in (self.judge_bar, self.export_bar, self.status):
            self.rows.addWidget(widget)
        self._connect()
        self._refresh()
        self._follow_active()

    def _connect(self) -> None:
        self.results.currentIndexChanged.connect(self._take_result)
        self.table.chosen.connect(self._chosen)
        self.table.clicked.connect(lambda _: self._show(self.table.current()))
        self._link.picked.connect(self._picked)
        self._link.pressed.connect(self.mark_normal)
        self._link.edited.connect(self._edited)
        self.judge_bar.mark_wanted.connect(self.mark_normal)
        self.judge_bar.undo_wanted.connect(self.undo_mark_normal)
        self.judge_bar.refine_wanted.connect(self.refine)
        self.judge_bar.discard_wanted.connect(self.discard_edits)
        self.export_bar.reported.connect(self.say)
        for signal in (self._session.results_changed, self._marked.changed, self._watch.changed):
            signal.connect(self._refresh)
        for signal in (self._session.model_changed, self._session.runner.state_changed):
            signal.connect(self._enable)
        self._viewer.layers.selection.events.active.connect(self._follow_active)

    # ---- result

    @property
    def result(self) -> LayerDetection | None:
        """The result that the table shows."""
        return self._session.result_of(self._link.labels)

    def _refresh(self) -> None:
        """Read the results; a new one is chosen, otherwise the choice is kept if its layer is still open."""
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
        labels: Labels | None = self.results.value() if self.results.count() else None
        if labels is not self._link.labels:
            self._link.follow(labels)
        self.say("")
        result = self.result
        self._has_edits = result is not None and bool(result.with_edits().edits)
        self.table.show_result(result)
        self._select(self.table.current())
        self.summary.setText(_summary(result, self.table.rows()))
        self.results.setEnabled(self.results.count() > 0)
        self.export_bar.show_result(result)
        self._enable()

    def _edited(self) -> None:
        if self.result is not None:
            show_features(self.result)
        self._take_result()

    def _enable(self) -> None:
        n = len(self._marked)
        is_idle = self._session.runner.state is State.IDLE
        self.judge_bar.show_state(
            can_mark=self.table.current() is not None,
            can_undo=self._marked.last_of(self._link.labels) is not None,
            can_refine=self._session.model is not None and n > 0 and is_idle,
            n_marked=n,
            has_edits=self._has_edits,
        )

    @while_alive
    def _follow_active(self, event: Any = None) -> None:  # noqa: ARG002 - napari's signature
        result = self._session.result_of(self._viewer.layers.selection.active)
        if result is not None:
            self.results.set_value(result.labels)

    # ---- table and view

    def _chosen(self, row: AnomalyRow | None) -> None:
        self._enable()
        self._show(row)

    def _chosen_plane(self) -> tuple[int, ...] | None:
        row = self.table.current()
        return None if row is None else row.index

    def _show(self, row: AnomalyRow | None) -> None:
        """Move the view to an anomaly."""
        labels = self._link.labels
        if row is None or labels is None or labels not in self._viewer.layers:
            return
        self._select(row)
        values = row.values
        # a pixel reaches half a pixel beyond its centre
        low = np.array([*row.index, values["first_row"] - 0.5, values["first_col"] - 0.5])
        high = np.array([*row.index, values["stop_row"] - 0.5, values["stop_col"] - 0.5])
        go_to(self._viewer, labels, low, high)

    def _select(self, row: AnomalyRow | None) -> None:
        if row is not None:
            self._link.select(row.number)

    def _picked(self, number: int) -> None:
        self.table.follow(number)
        self._enable()

    # ---- corrections

    def mark_normal(self) -> None:
        """Remove the selected region from the result, and keep it to train on."""
        row, result = self.table.current(), self.result
        if row is None or result is None:
            return
        place_in_table = self.table.currentIndex().row()
        try:
            judging.mark_normal(self._session, self._viewer, result, row.index, row.number)
        except UFlowError as error:
            self.say(str(error))
            return
        self.say("")
        self.table.choose(min(place_in_table, len(self.table.rows()) - 1))

    def undo_mark_normal(self) -> None:
        """Restore the region marked normal last."""
        if self.result is None:
            return
        number = judging.undo_mark_normal(self._session, self.result)
        for i, row in enumerate(self.table.rows()):
            if row.number == number:
                self.table.choose(i)

    def discard_edits(self) -> None:
        """Show the regions as they were detected."""
        if self.result is not None:
            judging.discard_edits(self._session, self.result)

    def refine(self) -> None:
        """Open the Train widget and refine the model there with the regions marked normal."""
        dock, train = self._viewer.window.add_plugin_dock_widget("napari-uflow", "Train", tabify=True)
        dock.show()
        dock.raise_()
        train.refine_as_trained()

    def say(self, text: str) -> None:
        """Show a sentence at the bottom; "" hides it."""
        self.status.setText(as_sentence(text))
        self.status.setVisible(bool(text))


def _summary(result: LayerDetection | None, rows: list[AnomalyRow]) -> str:
    if result is None:
        return "No result yet: run Detect first."
    n, n_planes = len(rows), len(result.planes)
    n_found = len(Counter(row.index for row in rows))
    where = f" in {n_found} of {n_planes} planes" if n_planes > 1 else ""
    found = result.planes[0][1]
    counted_on = found.guarantee.counted_on
    accepted = f"{counted(found.false_alarms, 'false alarm')} per {counted_on} accepted"
    unjudged = _unjudged(result)
    n_edited = sum(row.edited != "no" for row in rows)
    edited = f" ({n_edited} edited by hand)" if n_edited else ""
    if unjudged and not n:
        return f"{unjudged}."
    text = counted(n, "anomaly", "anomalies") if n else "No anomalies"
    return f"{text}{where if n else ''}{edited}; {accepted}.{f' {unjudged}.' if unjudged else ''}"


def _unjudged(result: LayerDetection) -> str:
    """Return how many planes could not be judged, "" if all were."""
    n_planes, n_unjudged = len(result.planes), result.n_unjudged
    if not n_unjudged:
        return ""
    which = "The image" if n_planes == 1 else f"{n_unjudged} of {n_planes} planes"
    return f"⚠ {which} could not be judged; Detect says why"
