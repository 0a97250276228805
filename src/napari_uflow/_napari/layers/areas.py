"""Areas marked in Labels and Shapes layers, as normal regions of an image layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_uflow._napari.layers.axes import axis_letters, axis_names, finest
from napari_uflow._napari.layers.planes import planes_of_layer
from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer, Shapes

__all__ = ["SpecimenRule", "normal_regions"]

SpecimenRule = Literal["names", "one", "each"]
"""Rule for the specimens of the planes of a stack: decide by axis name, all from one, or each from a different one."""

_AREAS = ("rectangle", "ellipse", "polygon")
# Axes with a different specimen at each position, which can be held out of training.
_SPECIMEN_AXES = frozenset(
    {"field", "fields", "fov", "image", "picture", "position", "sample", "scene", "specimen", "well"}
)


def normal_regions(
    image_layer: Image,
    normal_layer: Labels | Shapes | None = None,
    ignore_layer: Labels | Shapes | None = None,
    *,
    specimens: SpecimenRule = "names",
    channel_axis: int | None = None,
    channels: Sequence[int | str] | None = None,
    may_be_empty: bool = False,
) -> list[NormalRegion]:
    """Return the normal regions of an image layer, one for each plane that has any.

    Parameters
    ----------
    image_layer : Image
        The images.
    normal_layer : Labels or Shapes, optional
        Normal area: labels above 0, or the inside of rectangles, ellipses and polygons. A 2-D layer applies to all
        planes. None for whole images.
    ignore_layer : Labels or Shapes, optional
        Area to leave out.
    specimens : {"names", "one", "each"}
        Rule for the specimens of the planes: a different one at each position of an axis named field, position, sample
        or the like; all from one; or each from a different one.
    channel_axis, channels
        As in :func:`planes_of_layer`.
    may_be_empty : bool
        Return an empty list, instead of an error, if nothing is normal.

    Raises
    ------
    ImageError
        If nothing is normal, or the layers do not overlap.
    """
    planes = planes_of_layer(image_layer, channel_axis=channel_axis, channels=channels)
    letters = axis_letters(image_layer, channel_axis)
    names = dict(zip(letters, axis_names(image_layer), strict=False))
    normal = None if normal_layer is None else _Area(normal_layer, image_layer, letters)
    ignore = None if ignore_layer is None else _Area(ignore_layer, image_layer, letters)
    regions = []
    for plane in planes:
        mask = None if normal is None else normal.mask(plane)
        if ignore is not None:
            ignored = ignore.mask(plane)
            mask = ~ignored if mask is None else mask & ~ignored
        if mask is None or mask.any():
            regions.append(NormalRegion(plane, mask, _specimen(plane, names, specimens)))
    if not regions and not may_be_empty:
        marked = "the whole image" if normal_layer is None else f"'{normal_layer.name}'"
        less = "" if ignore_layer is None else f", less '{ignore_layer.name}',"
        raise ImageError(
            f"{marked}{less} leaves nothing normal in '{image_layer.name}': paint over its normal parts, or choose the "
            f"whole image"
        )
    return regions


def _specimen(plane: Plane, names: dict[str, str], rule: SpecimenRule) -> str | None:
    """Return the specimen of a plane that is different from others in its layer; None if the layer's name decides."""
    axes = [a for a in plane.axes if a in plane.index and rule != "one"]
    if rule == "names":
        axes = [a for a in axes if names.get(a) in _SPECIMEN_AXES]
    place = ",".join(f"{names.get(a) or a.lower()}={plane.index[a]}" for a in axes)
    return f"{plane.name} {place}" if place else None


class _Area:
    """Area that a labels or shapes layer marks in the planes of an image layer.

    Positions are mapped through world coordinates: the layers may differ in scale, translation and number of axes.
    """

    def __init__(self, layer: Labels | Shapes, image: Image, letters: str) -> None:
        self._letters = np.array(list(letters[: image.ndim]))
        self._axes = _axes_below(layer, image, self._letters)
        self._layer = layer
        self._image = image

    def mask(self, plane: Plane) -> NDArray[np.bool_]:
        """Return the area in one plane, (M, N) bool; a copy, so that further painting does not affect a running job."""
        letters = self._letters[self._axes[:-2]]
        position = np.array([0 if letter == "C" else plane.index[letter] for letter in letters], dtype=float)
        if hasattr(self._layer, "shape_type"):
            return self._drawn(plane, position, letters == "C")
        return self._painted(plane, position)

    def _painted(self, plane: Plane, position: NDArray[np.float64]) -> NDArray[np.bool_]:
        matrix, offset = _mapping(self._image, self._axes, self._layer, range(self._layer.ndim))
        # Rows and columns of the image are at matrix[-2:, -2:] @ (row, col) + start[-2:] in the labels.
        start = matrix[:, :-2] @ position + offset
        leading = [round(value) for value in start[:-2]]
        data = finest(self._layer)
        if any(not 0 <= i < n for i, n in zip(leading, data.shape, strict=False)):
            return np.zeros(plane.shape, dtype=bool)
        part = np.asarray(data[tuple(leading)]) > 0
        if part.shape == plane.shape and np.allclose(matrix[-2:, -2:], np.eye(2)) and np.allclose(start[-2:], 0):
            return part
        from scipy import ndimage

        values = ndimage.affine_transform(
            part.astype(np.uint8), matrix[-2:, -2:], start[-2:], output_shape=plane.shape, order=0, mode="constant"
        )
        return np.asarray(values > 0)

    def _drawn(self, plane: Plane, position: NDArray[np.float64], is_channel: NDArray[np.bool_]) -> NDArray[np.bool_]:
        from skimage.draw import polygon2mask

        mask = np.zeros(plane.shape, dtype=bool)
        matrix, offset = _mapping(self._layer, range(self._layer.ndim), self._image, self._axes)
        for vertices, kind in zip(self._layer.data, self._layer.shape_type, strict=True):
            if kind not in _AREAS:
                continue
            outline = _outline(np.asarray(vertices, dtype=float), kind) @ matrix.T + offset
            where = np.round(outline[:, :-2].mean(axis=0))
            if np.all((where == position) | is_channel):
                mask |= polygon2mask(plane.shape, outline[:, -2:])
        return mask


def _axes_below(layer: Layer, image: Image, letters: NDArray[Any]) -> list[int]:
    """Return the image axis of each axis of a layer: the last ones, as napari aligns them."""
    if layer.ndim > image.ndim:
        raise ImageError(
            f"'{layer.name}' has {layer.ndim} axes, but '{image.name}' has {image.ndim}; draw the area on the image "
            "itself"
        )
    axes = list(range(image.ndim))
    if layer.ndim == image.ndim - 1 and "C" in letters:
        return [axis for axis in axes if letters[axis] != "C"]
    return axes[image.ndim - layer.ndim :]


def _to_world(layer: Layer, axes: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and offset from axes of a layer to the same axes of the world."""
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), dtype=float)
    columns = [np.asarray(layer.data_to_world(unit), dtype=float) - origin for unit in np.eye(layer.ndim)]
    kept = list(axes)
    return np.stack(columns, axis=1)[np.ix_(kept, kept)], origin[kept]


def _mapping(
    source: Layer, source_axes: Sequence[int], target: Layer, target_axes: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and offset from positions in one layer to positions in another."""
    from_matrix, from_offset = _to_world(source, source_axes)
    to_matrix, to_offset = _to_world(target, target_axes)
    back = np.linalg.inv(to_matrix)
    return back @ from_matrix, back @ (from_offset - to_offset)


def _outline(vertices: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Return the vertices of a polygon with the outline of a shape, (n, D)."""
    if kind != "ellipse":
        return vertices
    centre = vertices.mean(axis=0)
    # napari gives the corners of the ellipse's box
    across, down = (vertices[1] - vertices[0]) / 2, (vertices[3] - vertices[0]) / 2
    angle = np.linspace(0, 2 * np.pi, 128, endpoint=False)[:, None]
    return np.asarray(centre + np.cos(angle) * across + np.sin(angle) * down)
