"""Choice among the images of one file."""

import re
from collections.abc import Sequence
from pathlib import Path

from napari_uflow.errors import ImageError

__all__ = ["chosen_series"]

_AUXILIARY = re.compile(
    r"(slide )?(label|macro|thumbnail|thumb|overview|preview|barcode)( image| picture)?( ?\d+)?", re.IGNORECASE
)
"""Names of the pictures that scanners store beside the image of a slide."""


def chosen_series(names: Sequence[str], sizes: Sequence[str], series: int | str | None, path: Path) -> list[int]:
    """Return the numbers of the images of a file to read.

    Parameters
    ----------
    names : sequence of str
        Name of each image; "" for none.
    sizes : sequence of str
        Size of each image in words, for messages.
    series : int, str or None
        Name of one image, or its number from 0. By default all images but the label, macro and overview pictures of a
        slide.
    path : Path
        File, for messages.

    Raises
    ------
    ImageError
        If there is no such image, or the name is that of one image and the number of another.
    """
    if series is None:
        main = [i for i, name in enumerate(names) if not _AUXILIARY.fullmatch(name.strip())]
        return main or list(range(len(names)))
    found = [i for i, name in enumerate(names) if name == series]
    text = str(series)
    if text.isdecimal() and text.isascii() and int(text) < len(names):
        found = sorted({*found, int(text)})
    if len(found) == 1:
        return found
    listed = ", ".join(f"{i} '{name}' ({size})" for i, (name, size) in enumerate(zip(names, sizes, strict=True)))
    reason = "several series" if found else "no series"
    raise ImageError(f"'{path}' has {reason} {series!r}; it has: {listed}")
