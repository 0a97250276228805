"""Conditions: the kinds of normal images, such as stains, batches or instruments, each with a guarantee of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from napari_uflow.image.plane import Plane
from napari_uflow.system.patterns import search_group

__all__ = ["conditions_of"]


def conditions_of(planes: Sequence[Plane], pattern: str) -> list[str | None]:
    """Return the condition of each image by its folder and name.

    Parameters
    ----------
    planes : sequence of Plane
        Images.
    pattern : str
        Regular expression whose only group is the condition, searched in "folder/name" with the ending of the file; in
        the name alone for an image that is not from a file. "" for a single condition.

    Returns
    -------
    list of str or None
        "" without a pattern; None where it does not match.

    Raises
    ------
    ConfigError
        If the pattern is not a regular expression with one group, or takes too long.
    """
    if not pattern:
        return [""] * len(planes)
    texts = [_text(plane) for plane in planes]
    distinct = list(dict.fromkeys(texts))
    found = dict(zip(distinct, search_group(pattern, distinct, what="condition"), strict=True))
    return [found[text] for text in texts]


def _text(plane: Plane) -> str:
    if plane.source is None:
        return plane.name
    path = Path(plane.source).absolute()  # the folder may be the current one
    return f"{path.parent.name}/{path.name}"
