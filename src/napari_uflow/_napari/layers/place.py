"""Place of a plane of a result in its image layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_uflow._napari.layers.areas import normal_regions
from napari_uflow._napari.layers.axes import finest
from napari_uflow._napari.layers.planes import current_plane
from napari_uflow.errors import ImageError

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_uflow.image.plane import Plane

__all__ = ["Place", "channel_options", "place_of"]


@dataclass(frozen=True, eq=False)
class Place:
    """Place of a plane of a result in its image layer.

    Attributes
    ----------
    plane : Plane
        The image plane, cropped to the result.
    specimen : str
        Its specimen.
    at : mapping of str to int
        Position on each axis of the stack.
    row, col : int
        First row and column in the image.
    """

    plane: Plane
    specimen: str
    at: Mapping[str, int]
    row: int
    col: int


def place_of(image: Image, labels: Labels, index: Sequence[int]) -> Place:
    """Return the place of a plane of a result.

    Parameters
    ----------
    image : Image
        Image layer of the result.
    labels : Labels
        Labels layer of the result, which covers whole planes of the image or a part of one.
    index : sequence of int
        Index of the plane in the labels.

    Raises
    ------
    ImageError
        If the image layer was changed.
    """
    options = channel_options(labels)
    world = np.asarray(labels.data_to_world((*index, 0, 0)), dtype=float)
    plane = current_plane(image, world.tolist(), **options)
    specimen = next(r.specimen for r in normal_regions(image, **options) if r.plane.index == plane.index)
    start = np.zeros(image.ndim)
    start[image.ndim - len(world) :] = world
    row, col = (round(float(value)) for value in image.world_to_data(start)[-2:])
    height, width = finest(labels).shape[-2:]
    if min(row, col) < 0 or row + height > plane.shape[0] or col + width > plane.shape[1]:
        raise ImageError(f"'{image.name}' has changed since the detection: run Detect again")
    at = dict(plane.index)
    if (height, width) != plane.shape:
        plane = _part(plane, slice(row, row + height), slice(col, col + width))
    return Place(plane, specimen, at, row, col)


def channel_options(labels: Labels) -> dict[str, Any]:
    """Return channel axis and channels of a result, as keyword arguments of the layer functions."""
    known = labels.metadata.get("napari_uflow", {})
    return {"channel_axis": known.get("channel_axis"), "channels": known.get("channels")}


def _part(plane: Plane, rows: slice, cols: slice) -> Plane:
    key: list[Any] = []
    for axis in plane.axes:
        if axis in "YX":
            key.append(rows if axis == "Y" else cols)
        else:
            key.append(slice(None) if axis in "CS" else plane.index[axis])
    axes = "".join(axis for axis in plane.axes if axis in "YXCS")
    return replace(plane, data=plane.data[tuple(key)], axes=axes, index={}, name=plane.title)
