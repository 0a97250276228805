"""Write tables of regions as CSV."""

import os
from collections.abc import Iterable

from napari_uflow.detection.result import Detection
from napari_uflow.store.provenance import check_replaceable
from napari_uflow.store.table import REGION_COLUMNS, lines_of, write_table

__all__ = ["region_lines", "write_regions"]


def write_regions(path: str | os.PathLike[str], detections: Iterable[Detection], *, overwrite: bool = False) -> None:
    """Write the regions of one or many planes to one CSV file, completely or not at all.

    Parameters
    ----------
    path : path-like
        File to write; an existing table of this program is replaced.
    detections : iterable of Detection
        Detections whose regions become rows, with the name of the plane in the first column and the unit of the area in
        the last one (empty without a pixel size).
    overwrite : bool
        Replace a file of another origin, too.

    Raises
    ------
    OverwriteError
        If the file exists and was not written by napari-uflow.
    UFlowError
        If the file cannot be written.
    """
    check_replaceable(path, overwrite=overwrite)
    write_table(path, REGION_COLUMNS, map(region_lines, detections))


def region_lines(detection: Detection) -> str:
    """Return the regions of a plane as lines of a table with `REGION_COLUMNS`."""
    unit = f"{detection.unit}^2" if detection.unit and detection.pixel_size else ""
    return lines_of(
        [detection.name, *("" if value != value else _short(value) for value in row.values()), unit]
        for row in detection.regions.rows()
    )


def _short(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
