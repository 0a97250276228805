"""Write tables of regions as CSV."""

import os
from collections.abc import Iterable

from napari_uflow.detection.result import Detection
from napari_uflow.store.tables import REGION_COLUMNS, region_lines, write_table

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
    write_table(path, REGION_COLUMNS, map(region_lines, detections))
