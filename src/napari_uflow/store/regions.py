"""Write tables of regions as CSV."""

import os
from collections.abc import Iterable

from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection
from napari_uflow.store.files import atomic_path
from napari_uflow.store.table import write_rows

__all__ = ["write_regions"]


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
    names = list(RegionTable.__dataclass_fields__)
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write_rows(file, [["plane", *names, "area_unit"]])
        for detection in detections:
            unit = f"{detection.unit}^2" if detection.unit and detection.pixel_size else ""
            for row in detection.regions.rows():
                values = ["" if value != value else _short(value) for value in row.values()]
                write_rows(file, [[detection.name, *values, unit]])


def _short(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
