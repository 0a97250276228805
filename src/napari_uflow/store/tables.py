"""Tables as CSV, and their columns."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from napari_uflow.detection.regions import RegionTable
from napari_uflow.detection.result import Detection
from napari_uflow.store.files import atomic_path
from napari_uflow.wording import printable

__all__ = ["REGION_COLUMNS", "SUMMARY_COLUMNS", "lines_of", "region_lines", "write_table"]

REGION_COLUMNS = ("plane", *RegionTable.__dataclass_fields__, "area_unit")
"""Columns of a table of regions."""

SUMMARY_COLUMNS = (
    "file",
    "outcome",
    "n_planes",
    "n_anomalous_planes",
    "n_regions",
    "lowest_log10_nfa",
    "warnings",
    "reason",
)
"""Columns of the summary of a batch."""


def lines_of(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as lines of CSV; what cannot be printed, in the name of a file, is escaped."""
    text = io.StringIO()
    csv.writer(text).writerows([printable(value) if isinstance(value, str) else value for value in row] for row in rows)
    return text.getvalue()


def region_lines(detection: Detection) -> str:
    """Return the regions of a plane as lines of a table with `REGION_COLUMNS`."""
    unit = f"{detection.unit}^2" if detection.unit and detection.pixel_size else ""
    return lines_of(
        [detection.name, *("" if value != value else _short(value) for value in row.values()), unit]
        for row in detection.regions.rows()
    )


def _short(value: float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_table(path: str | os.PathLike[str], columns: Sequence[str], lines: Iterable[str]) -> None:
    """Write a table, completely or not at all.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.
    columns : sequence of str
        Titles of the columns.
    lines : iterable of str
        Blocks of lines, from :func:`lines_of`.

    Raises
    ------
    UFlowError
        If the file cannot be written.
    """
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        file.write(lines_of([columns]))
        file.writelines(lines)
