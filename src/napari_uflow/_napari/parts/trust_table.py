"""Table of accepted and observed false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem

from napari_uflow._napari.parts.fields import tooltip

if TYPE_CHECKING:
    from napari_uflow.evaluation.trust import TrustReport

__all__ = ["TrustTable"]

_COLUMNS = {
    "Accepted": "Accepted false alarms per image, as set by the slider of Detect.",
    "Held out": "On the held-out specimens, what the number bounds: for small ones the part of images with any region, "
    "otherwise regions per image, where very many count as a few.",
    "Other images": "Regions reported per image on the ticked normal images.",
    "Guaranteed": "Whether the number is guaranteed; otherwise, how many held-out specimens it needs.",
}


class TrustTable(QTableWidget):
    """Table with a row for each accepted number of false alarms."""

    def __init__(self) -> None:
        super().__init__(0, len(_COLUMNS))
        self.setHorizontalHeaderLabels(list(_COLUMNS))
        for column, text in enumerate(_COLUMNS.values()):
            header = self.horizontalHeaderItem(column)
            if header is not None:
                header.setToolTip(tooltip(text))
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionMode(QAbstractItemView.SelectionMode.NoSelection)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(22)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setAccessibleName("Accepted and observed false alarms")

    def show_report(self, report: TrustReport) -> None:
        """Show a report, without a scroll bar."""
        from napari_uflow.evaluation.trust import EPSILONS
        from napari_uflow.nfa.conformal import specimens_needed

        self.setRowCount(len(EPSILONS))
        self.setColumnHidden(2, not report.n_new)
        for row, epsilon in enumerate(EPSILONS):
            is_guaranteed = report.is_guaranteed(epsilon)
            new = report.new[row] if report.n_new else float("nan")
            guarantee = "yes" if is_guaranteed else f"needs {specimens_needed(epsilon)}"
            for column, text in enumerate((f"{epsilon:g}", _number(report.held_out[row]), _number(new), guarantee)):
                item = QTableWidgetItem(text)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                self.setItem(row, column, item)
        height = self.horizontalHeader().sizeHint().height() + sum(self.rowHeight(i) for i in range(self.rowCount()))
        self.setFixedHeight(height + 2 * self.frameWidth())


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}"
