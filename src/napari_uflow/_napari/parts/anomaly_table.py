"""Table of the anomalies of a result."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QSize, QSortFilterProxyModel, Qt, Signal
from qtpy.QtGui import QResizeEvent
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_uflow._napari.parts.anomaly_rows import (
    AREA,
    COLUMNS,
    EDITED,
    NFA,
    PIXELS,
    PLANE,
    AnomalyRow,
    nfa_of,
    plane_title,
    rows_of,
)
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.session.layer_detection import LayerDetection

__all__ = ["AnomalyTable"]

_VALUE = Qt.ItemDataRole.UserRole
# Pixels beside the title of a column, and for the arrow of the sorted one; widest minimum width of the table.
_PADDING, _ARROW, _WIDEST = 6, 14, 440


class _Model(QAbstractTableModel):
    """Qt model of the rows."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.rows: list[AnomalyRow] = []
        self._plane_title = COLUMNS[PLANE].title

    def set_rows(self, rows: list[AnomalyRow], plane_title: str) -> None:
        """Show other rows."""
        self.beginResetModel()
        self.rows, self._plane_title = rows, plane_title
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of anomalies."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text of a cell, or the value it is sorted by."""
        if not index.isValid():
            return None
        row, column = self.rows[index.row()], COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return row.plane if index.column() == PLANE else column.text(column.value(row))
        if role == _VALUE:
            # within a plane the most significant comes first
            return list(row.index) if index.column() == PLANE else column.value(row)
        if role == Qt.ItemDataRole.TextAlignmentRole:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        if role == Qt.ItemDataRole.ToolTipRole and index.column() == AREA:
            return f"{row.values['area_px']} px"
        return None

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return title and tooltip of a column."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        if role == Qt.ItemDataRole.DisplayRole:
            unit = next((row.unit for row in self.rows if row.unit), "")
            if section == AREA and unit:
                return f"{unit.replace('um', 'µm')}²"
            return self._plane_title if section == PLANE else COLUMNS[section].title
        if role == Qt.ItemDataRole.ToolTipRole:
            return tooltip(COLUMNS[section].help)
        return None


class _Sorted(QSortFilterProxyModel):
    """Sorts by values instead of texts."""

    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:  # noqa: N802
        """Return whether a cell comes before another."""
        a, b = left.data(_VALUE), right.data(_VALUE)
        if a != b:
            return bool(a < b)
        rows = self.sourceModel().rows
        return bool(nfa_of(rows[left.row()]) < nfa_of(rows[right.row()]))


class AnomalyTable(QTableView):
    """Table of anomalies, the most significant first; a click on a column title sorts by that column.

    All columns fit into the minimum width of the table, unless their numbers are very long.

    Signals
    -------
    chosen : AnomalyRow or None
        The user selected another row, with mouse or keyboard, or none.
    """

    chosen = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._model = _Model(self)
        self._sorted = _Sorted(self)
        self._sorted.setSourceModel(self._model)
        self._is_following = False
        self.setModel(self._sorted)
        self.setSortingEnabled(True)
        self.sortByColumn(NFA, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 8)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        header.setMinimumSectionSize(20)
        header.setHighlightSections(False)
        header.sortIndicatorChanged.connect(self._fit)
        self.setMinimumHeight(160)
        self._fit()
        self.selectionModel().currentRowChanged.connect(self._went)

    def show_result(self, result: LayerDetection | None) -> None:
        """Show the anomalies of a result; the selected one stays selected if it is still there."""
        row = self.current()
        rows = rows_of(result)
        self._is_following = True
        try:
            self._model.set_rows(rows, plane_title(result))
            has_unit = any(row.unit for row in rows)
            self.setColumnHidden(PLANE, not any(row.plane for row in rows))
            self.setColumnHidden(PIXELS, has_unit)
            self.setColumnHidden(AREA, not has_unit)
            self.setColumnHidden(EDITED, all(row.edited == "no" for row in rows))
        finally:
            self._is_following = False
        self._fit()
        if row is not None:
            # labels and outlines change with the accepted false alarms; the NFA of the most anomalous pixel does not
            same = (other for other in rows if other.index == row.index and nfa_of(other) == nfa_of(row))
            self.follow(next((other.number for other in same), 0))

    def rows(self) -> list[AnomalyRow]:
        """Return the anomalies in the order of the table."""
        return [self._row(self._sorted.index(i, 0)) for i in range(self._sorted.rowCount())]

    def current(self) -> AnomalyRow | None:
        """Return the selected row, or None."""
        index = self.currentIndex()
        return self._row(index) if index.isValid() else None

    def follow(self, number: int) -> None:
        """Select the row of a label without a signal; none if the label has no row."""
        self._is_following = True
        try:
            for i, row in enumerate(self.rows()):
                if row.number == number:
                    self.selectRow(i)
                    self.scrollTo(self._sorted.index(i, 0))
                    return
            self.clearSelection()
            self.setCurrentIndex(QModelIndex())
        finally:
            self._is_following = False

    def choose(self, i: int) -> None:
        """Select a row by its position, as a click does."""
        if not 0 <= i < self._sorted.rowCount():
            return
        if self.currentIndex().row() == i:  # Qt signals only a change
            self.chosen.emit(self.current())
        self.selectRow(i)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 - Qt's name
        """Return the width of all columns, up to a limit."""
        beside = self.verticalScrollBar().sizeHint().width() + 2 * self.frameWidth()
        return QSize(min(sum(self._widths()) + beside, _WIDEST), super().minimumSizeHint().height())

    def sizeHint(self) -> QSize:  # noqa: N802
        """Return the preferred size."""
        return super().sizeHint().expandedTo(self.minimumSizeHint())

    def resizeEvent(self, event: QResizeEvent | None) -> None:  # noqa: N802
        """Distribute the width among the columns."""
        super().resizeEvent(event)
        self._fit()

    def _widths(self) -> list[int]:
        """Return the width that the content of each column needs, 0 for a hidden one."""
        header = self.horizontalHeader()
        widths = []
        for column in range(len(COLUMNS)):
            title = str(self._model.headerData(column, Qt.Orientation.Horizontal))
            arrow = _ARROW if column == header.sortIndicatorSection() else 0
            width = header.fontMetrics().horizontalAdvance(title) + 2 * _PADDING + arrow
            widths.append(0 if self.isColumnHidden(column) else max(width, self.sizeHintForColumn(column)))
        return widths

    def _fit(self) -> None:
        widths = self._widths()
        n_shown = sum(width > 0 for width in widths)
        spare = max(0, self.viewport().width() - sum(widths)) // n_shown
        for column, width in enumerate(widths):
            if width:
                self.setColumnWidth(column, width + spare)
        self.updateGeometry()

    def _row(self, index: QModelIndex) -> AnomalyRow:
        return self._model.rows[self._sorted.mapToSource(index).row()]

    def _went(self, *_: object) -> None:
        if not self._is_following:
            self.chosen.emit(self.current())
