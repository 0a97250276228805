"""Tables as CSV, in which no text is taken for a formula."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from typing import TextIO

__all__ = ["write_rows"]

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
