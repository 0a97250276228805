"""Write tables of regions as CSV."""

import os
from collections.abc import Iterable, Sequence

from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection
from napari_uflow.store.table import lines_of, write_table

__all__ = ["EDITED_REGION_COLUMNS", "REGION_COLUMNS", "region_lines", "write_edited_regions", "write_regions"]

REGION_COLUMNS = ("plane", *RegionTable.__dataclass_fields__, "area_unit")
"""Columns of a table of regions."""

EDITED_REGION_COLUMNS = (*REGION_COLUMNS, "edited")
"""Columns of a table of regions that may have been edited by hand."""


def write_regions(path: str | os.PathLike[str], detections: Iterable[Detection]) -> None:
    """Write the regions of one or many planes to one CSV file, completely or not at all.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.
    detections : iterable of Detection
        Detections whose regions become rows, with the name of the plane in the first column and the unit of the area in
        the last one (empty without a pixel size).

    Raises
    ------
    UFlowError
        If the file cannot be written.
    """
    write_table(path, REGION_COLUMNS, map(region_lines, detections))


def write_edited_regions(
    path: str | os.PathLike[str], detections: Iterable[Detection], edited: Iterable[Sequence[str]]
) -> None:
    """Write regions as :func:`write_regions` does, and how each was edited by hand in a last column.

    Parameters
    ----------
    path, detections
        As in :func:`write_regions`.
    edited : iterable of sequences of str
        For each detection one word per region, such as "no".

    Raises
    ------
    UFlowError
        If the file cannot be written.
    """
    write_table(path, EDITED_REGION_COLUMNS, map(region_lines, detections, edited))


def region_lines(detection: Detection, edited: Sequence[str] | None = None) -> str:
    """Return the regions of a plane as lines of a table with `REGION_COLUMNS`, or `EDITED_REGION_COLUMNS`."""
    unit = f"{detection.unit}^2" if detection.unit and detection.pixel_size else ""
    ends = [(unit,)] * len(detection.regions) if edited is None else [(unit, how) for how in edited]
    return lines_of(
        [detection.name, *("" if value != value else _short(value) for value in row.values()), *end]
        for row, end in zip(detection.regions.rows(), ends, strict=True)
    )


def _short(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
