"""Numbers in sentences, and texts of others on a terminal."""

from __future__ import annotations

import math
import re
from pathlib import PureWindowsPath

__all__ = ["LEAST_PART", "counted", "how_far", "printable", "without_name", "without_subject"]

# Control characters, marks that reverse the order of a line, and parts of names that are no text.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

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
    """Return a progress in words, with the completed fraction of the next step, which is below 100 %.

    Examples
    --------
    >>> how_far(1, 2, 0.0), how_far(1, 2, 0.23), how_far(64, 88, 1.0)
    ('1 of 2', '1 of 2, next 23 %', '64 of 88, next 99 %')
    """
    of_next = f", next {min(math.floor(100 * part), 99)} %" if part >= LEAST_PART else ""
    return f"{done} of {total}{of_next}"


def without_subject(sentence: str, name: str) -> str:
    """Return a sentence about a file without its name at the beginning, to be shown after the name.

    Examples
    --------
    >>> without_subject("'a/b.tif' cannot be read", "a/b.tif")
    'cannot be read'
    """
    return sentence.removeprefix(f"'{name}' ")


def without_name(phrase: str, name: str) -> str:
    """Return the phrase of a library without the name of a file, for a sentence that names the file itself.

    Examples
    --------
    >>> without_name("[Errno 2] No such file or directory: '/a/b.tif'", "/a/b.tif")
    '[Errno 2] No such file or directory'
    >>> without_name("cannot identify image file 'b.tif' as TIFF", "/a/b.tif")
    'cannot identify image file as TIFF'
    """
    whole, last = re.escape(name), re.escape(PureWindowsPath(name).name)  # which knows both slashes
    quoted = rf"""(['"])(?:{whole}|{last})\1"""
    return re.sub(rf"[:,]?\s*(?:<[^<>]*|\w*Path\()?(?:{quoted}|(?<!\S){whole}(?!\S))[)>]?", "", phrase).strip()


def printable(text: str, keep: str = "") -> str:
    r"""Return a text in which control characters are written out, so that a terminal does not obey them.

    Parameters
    ----------
    text : str
        Text that may contain names of files or entries of a model's card, which anyone may have chosen.
    keep : str
        Control characters to leave as they are.

    Examples
    --------
    >>> printable("a\x1b[2Jb.tif\n")
    'a\\x1b[2Jb.tif\\n'
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _written_out(found[0]), text)


def _written_out(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
