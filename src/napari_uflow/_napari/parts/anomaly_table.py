"""Table of the anomalies of a result."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QAbstractTableModel, QModelIndex, QObject, QSortFilterProxyModel, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView, QWidget

from napari_uflow._napari.layers.axes import finest
from napari_uflow._napari.parts.fields import tooltip
from napari_uflow._napari.session.layer_detection import LayerDetection

__all__ = ["AnomalyRow", "AnomalyTable", "plane_text"]

_VALUE = Qt.ItemDataRole.UserRole


@dataclass(frozen=True)
class AnomalyRow:
    """An anomaly.

    Attributes
    ----------
    number : int
        Label in the labels layer.
    index : tuple of int
        Index of its plane in the labels layer.
    plane : str
        Name of its plane.
    values : mapping
        Measurements, as `RegionTable.rows` yields them.
    unit : str
        Unit of the pixel size, "" if unknown.
    """

    number: int
    index: tuple[int, ...]
    plane: str
    values: Mapping[str, int | float]
    unit: str


@dataclass(frozen=True)
class _Column:
    title: str
    help: str
    value: Callable[[AnomalyRow], Any]
    text: Callable[[Any], str]


def _nfa(row: AnomalyRow) -> float:
    return row.values["log10_nfa"]


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


_COLUMNS = (
    _Column("#", "Label of the region in the anomalies layer.", lambda row: row.number, str),
    _Column("Plane", "Position in the stack, counted from 0 as on the sliders.", lambda row: (*row.index,), str),
    _Column(
        "log10 NFA",
        "log10 of the number of false alarms (NFA), the expected number of equally anomalous regions in a normal "
        "image: -3 is one in a thousand images. The most significant region comes first.",
        _nfa,
        lambda value: f"{value:.1f}" if value <= -1 else f"{value:.2f}".replace("-0.00", "0.00"),
    ),
    _Column("px", "Area in pixels.", lambda row: row.values["area_px"], str),
    _Column("Area", "Area in units of the pixel size.", lambda row: row.values["area"], _short),
    _Column("Peak", "Highest heatmap value in the region.", lambda row: row.values["peak_score"], "{:.2f}".format),
    _Column("Mean", "Mean heatmap value in the region.", lambda row: row.values["mean_score"], "{:.2f}".format),
    _Column("Row", "Row of the centroid, in pixels.", lambda row: row.values["centroid_row"], "{:.0f}".format),
    _Column("Col", "Column of the centroid, in pixels.", lambda row: row.values["centroid_col"], "{:.0f}".format),
)
_PLANE, _NFA, _AREA = 1, 2, 4


def plane_text(result: LayerDetection, index: tuple[int, ...]) -> str:
    """Return the name of a plane, such as "specimen 3"; "" in a result of one plane."""
    labels = result.labels
    parts = []
    for axis, position in enumerate(index):
        if finest(labels).shape[axis] > 1:
            name = labels.axis_labels[axis]
            parts.append(f"{name} {position}" if name[:1].isalpha() else str(position))
    return ", ".join(parts)


def rows_of(result: LayerDetection | None) -> list[AnomalyRow]:
    """Return the anomalies of a result."""
    if result is None:
        return []
    units = {index: (found.unit or "") if found.pixel_size else "" for index, found in result.planes}
    texts = {index: plane_text(result, index) for index, _ in result.planes}
    return [AnomalyRow(number, index, texts[index], row, units[index]) for number, index, row in result.rows()]


class _Model(QAbstractTableModel):
    """Qt model of the rows."""

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self.rows: list[AnomalyRow] = []

    def set_rows(self, rows: list[AnomalyRow]) -> None:
        """Show other rows."""
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802 - Qt's name
        """Return the number of anomalies."""
        return 0 if parent is not None and parent.isValid() else len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: N802
        """Return the number of columns."""
        return 0 if parent is not None and parent.isValid() else len(_COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        """Return the text of a cell, or the value it is sorted by."""
        if not index.isValid():
            return None
        row, column = self.rows[index.row()], _COLUMNS[index.column()]
        if role == Qt.ItemDataRole.DisplayRole:
            return row.plane if index.column() == _PLANE else column.text(column.value(row))
        if role == _VALUE:
            # within a plane the most significant comes first
            return list(row.index) if index.column() == _PLANE else column.value(row)
        if role == Qt.ItemDataRole.TextAlignmentRole and index.column() != _PLANE:
            return int(Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
        return None

    def headerData(  # noqa: N802
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        """Return title and tooltip of a column."""
        if orientation != Qt.Orientation.Horizontal:
            return None
        unit = next((row.unit for row in self.rows if row.unit), "")
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{unit.replace('um', 'µm')}²" if section == _AREA and unit else _COLUMNS[section].title
        if role == Qt.ItemDataRole.ToolTipRole:
            return tooltip(_COLUMNS[section].help)
        return None


class _Sorted(QSortFilterProxyModel):
    """Sorts by values instead of texts."""

    def lessThan(self, left: QModelIndex, right: QModelIndex) -> bool:  # noqa: N802
        """Return whether a cell comes before another."""
        a, b = left.data(_VALUE), right.data(_VALUE)
        if a != b:
            return bool(a < b)
        rows = self.sourceModel().rows
        return bool(_nfa(rows[left.row()]) < _nfa(rows[right.row()]))


class AnomalyTable(QTableView):
    """Table of anomalies, the most significant first; a click on a column title sorts by that column.

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
        self.sortByColumn(_NFA, Qt.SortOrder.AscendingOrder)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setShowGrid(False)
        self.setWordWrap(False)
        self.setTabKeyNavigation(False)
        self.setCornerButtonEnabled(False)
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 8)
        header = self.horizontalHeader()
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setMinimumSectionSize(30)
        header.setHighlightSections(False)
        self.setMinimumHeight(160)
        self.selectionModel().currentRowChanged.connect(self._went)

    def show_result(self, result: LayerDetection | None) -> None:
        """Show the anomalies of a result; the selected one stays selected if it is still there."""
        row = self.current()
        rows = rows_of(result)
        self._is_following = True
        try:
            self._model.set_rows(rows)
            self.setColumnHidden(_PLANE, not any(row.plane for row in rows))
            self.setColumnHidden(_AREA, not any(row.unit for row in rows))
        finally:
            self._is_following = False
        if row is not None:
            # labels and outlines change with the accepted false alarms; the NFA of the most anomalous pixel does not
            same = (other for other in rows if other.index == row.index and _nfa(other) == _nfa(row))
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

    def _row(self, index: QModelIndex) -> AnomalyRow:
        return self._model.rows[self._sorted.mapToSource(index).row()]

    def _went(self, *_: object) -> None:
        if not self._is_following:
            self.chosen.emit(self.current())
