"""Tables as CSV, in which no text is taken for a formula."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from napari_uflow.detection.regions import RegionTable
from napari_uflow.store.files import atomic_path
from napari_uflow.wording import printable

__all__ = ["EVALUATION_COLUMNS", "REGION_COLUMNS", "SUMMARY_COLUMNS", "lines_of", "write_rows", "write_table"]

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

EVALUATION_COLUMNS = (
    "file",
    "kind",
    "has_mask",
    "n_regions",
    "lowest_log10_nfa",
    "highest_score",
    "n_true_regions",
    "n_true_regions_found",
    "iou",
)
"""Columns of the table of the images of an evaluation."""

# Where a formula begins: at the start of a cell, or of a part that a spreadsheet with other separators makes a cell of.
_FORMULA = re.compile(r"(^|[;\t\r\n])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")


def write_rows(file: TextIO, rows: Iterable[Iterable[object]]) -> None:
    r"""Write rows to a CSV file that is open with ``newline=""``.

    Numbers stay as they are. A text that a spreadsheet would run as a formula, since it begins with ``=``, ``+``,
    ``-``, ``@``, a tab or a line break, gets an apostrophe before it: names of files may come from anyone. Parts of a
    name that are no Unicode text are written as ``\udc..``.

    Parameters
    ----------
    file : text file
        File to write to.
    rows : iterable of iterables
        Rows of numbers and texts.

    References
    ----------
    OWASP Foundation. CSV Injection. https://owasp.org/www-community/attacks/CSV_Injection
    """
    csv.writer(file).writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> str:
    text = str(value).encode("utf-8", "backslashreplace").decode()
    return text if _is_number(text) else _FORMULA.sub(r"\1'", text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def lines_of(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of CSV, in which control characters of texts are written out."""
    text = io.StringIO(newline="")
    write_rows(text, ([printable(value) if isinstance(value, str) else value for value in row] for row in rows))
    return text.getvalue()


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
