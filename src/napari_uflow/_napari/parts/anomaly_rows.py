"""Rows and columns of the table of anomalies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from napari_uflow._napari.layers.axes import finest
from napari_uflow._napari.session.layer_detection import LayerDetection

__all__ = [
    "AREA",
    "COLUMNS",
    "EDITED",
    "NFA",
    "PIXELS",
    "PLANE",
    "AnomalyRow",
    "Column",
    "nfa_of",
    "plane_title",
    "rows_of",
]


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
        Position of its plane on the axes of the stack, such as "3"; "" in a result of one plane.
    values : mapping
        Measurements, as `RegionTable.rows` yields them.
    unit : str
        Unit of the pixel size, "" if unknown.
    edited : str
        How it was edited by hand: "no", "changed" or "painted".
    """

    number: int
    index: tuple[int, ...]
    plane: str
    values: Mapping[str, int | float]
    unit: str
    edited: str = "no"


@dataclass(frozen=True)
class Column:
    """A column: title, tooltip of the title, value of a row to sort by, and its text."""

    title: str
    help: str
    value: Callable[[AnomalyRow], Any]
    text: Callable[[Any], str]


def nfa_of(row: AnomalyRow) -> float:
    """Return log10 of the number of false alarms of an anomaly."""
    return row.values["log10_nfa"]


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


COLUMNS = (
    Column("#", "Label of the region in the anomalies layer.", lambda row: row.number, str),
    Column("Plane", "Position in the stack, counted from 0 as on the sliders.", lambda row: (*row.index,), str),
    Column(
        "log10 NFA",
        "log10 of the number of false alarms (NFA), the expected number of equally anomalous regions in a normal "
        "image: -3 is one in a thousand images. The most significant region comes first.",
        nfa_of,
        lambda value: f"{value:.1f}" if value <= -1 else f"{value:.2f}".replace("-0.00", "0.00"),
    ),
    Column("px", "Area in pixels.", lambda row: row.values["area_px"], str),
    Column("Area", "Area in units of the pixel size.", lambda row: row.values["area"], _short),
    Column("Peak", "Highest heatmap value in the region.", lambda row: row.values["peak_score"], "{:.2f}".format),
    Column("Mean", "Mean heatmap value in the region.", lambda row: row.values["mean_score"], "{:.2f}".format),
    Column("Row", "Row of the centroid, in pixels.", lambda row: row.values["centroid_row"], "{:.0f}".format),
    Column("Col", "Column of the centroid, in pixels.", lambda row: row.values["centroid_col"], "{:.0f}".format),
    Column(
        "Edited",
        "By hand: 'painted' for a region that was drawn, 'changed' for a detected one whose outline was edited.",
        lambda row: row.edited,
        lambda value: "" if value == "no" else value,
    ),
)
PLANE, NFA, PIXELS, AREA, EDITED = 1, 2, 3, 4, 9
"""Columns that are treated apart."""


def _stack_axes(result: LayerDetection) -> list[int]:
    """Return the axes of a result that have several planes."""
    shape = finest(result.labels).shape
    return [axis for axis in range(len(shape) - 2) if shape[axis] > 1]


def plane_title(result: LayerDetection | None) -> str:
    """Return the names of the axes of the planes, such as "specimen" or "t, z"."""
    names = [] if result is None else [result.labels.axis_labels[axis] for axis in _stack_axes(result)]
    return ", ".join(names) if names and all(name[:1].isalpha() for name in names) else COLUMNS[PLANE].title


def rows_of(result: LayerDetection | None) -> list[AnomalyRow]:
    """Return the anomalies of a result."""
    if result is None:
        return []
    units = {index: (found.unit or "") if found.pixel_size else "" for index, found in result.planes}
    axes = _stack_axes(result)
    return [
        AnomalyRow(
            int(row["label"]),
            plane.index,
            ", ".join(str(plane.index[axis]) for axis in axes),
            row,
            units[plane.index],
            edited,
        )
        for plane in result.shown()
        for row, edited in zip(plane.found.regions.rows(), plane.edited, strict=True)
    ]
