"""Numbers and names in sentences."""

from __future__ import annotations

__all__ = ["LEAST_PART", "counted", "how_far", "printable"]

LEAST_PART = 0.01
"""Smallest fraction of a step that is reported."""


def counted(n: float, noun: str, plural: str = "") -> str:
    """Return a number with its noun; the plural has an s by default.

    Examples
    --------
    >>> counted(1, "tile"), counted(0.5, "false alarm"), counted(2, "anomaly", "anomalies")
    ('1 tile', '0.5 false alarms', '2 anomalies')
    """
    number = f"{n:g}" if isinstance(n, float) else str(n)
    return f"{number} {noun if n == 1 else plural or f'{noun}s'}"


def how_far(done: int, total: int, part: float) -> str:
    """Return a progress in words, with the completed fraction of the next step.

    Examples
    --------
    >>> how_far(1, 2, 0.0), how_far(1, 2, 0.23)
    ('1 of 2', '1 of 2 and 23%')
    """
    of_next = f" and {part:.0%}" if part >= LEAST_PART else ""
    return f"{done} of {total}{of_next}"


def printable(text: str) -> str:
    r"""Return a text with its characters that cannot be printed as escapes, such as those of a name that is not UTF-8.

    Examples
    --------
    >>> printable("50 \u00b5m"), printable("line\n"), printable("Zelle_\udcb5m")
    ('50 µm', 'line\\n', 'Zelle_\\udcb5m')
    """
    return "".join(c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape").decode() for c in text)
