"""Layers in, values out: what the core needs of a layer, and the transform that puts a result on top of it.

Everything here runs in the thread of the window and returns values that hold arrays, never a layer. A result is
stacked like its image without the channel axis; :class:`Frame` says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_uflow.errors import ImageError
from napari_uflow.image import NormalRegion, Plane, Window, planes_of

if TYPE_CHECKING:
    from napari.layers import Image, Labels, Layer, Shapes

__all__ = [
    "Frame",
    "View",
    "axis_letters",
    "current_plane",
    "finest",
    "frame_of",
    "has_channel_axis",
    "normal_regions",
    "output_transform",
    "pixel_size_of",
    "planes_of_layer",
    "unit_text",
    "visible_field",
]

FieldRule = Literal["names", "one", "each"]
"""Whether the planes of a stack come from one specimen: told by the axis names, yes, or no."""

_LETTERS = {
    **dict.fromkeys(("c", "ch", "channel", "channels", "colour", "color", "wavelength"), "C"),
    **dict.fromkeys(("t", "time", "frame", "timepoint"), "T"),
    **dict.fromkeys(("z", "depth", "plane", "slice"), "Z"),
}
# Axes whose positions are separate specimens: each can be held out of training by itself.
_FIELD_NAMES = frozenset(
    {"field", "fields", "fov", "image", "picture", "position", "sample", "scene", "specimen", "well"}
)
# Letters for axes without a known name, the last axis first.
_SPARE = "ZTABDEFGHIJKLMNOPQRUVW"


@dataclass(frozen=True)
class Frame:
    """How results are stacked on top of an image layer: its axes without the channels.

    Attributes
    ----------
    letters : str
        One letter for each axis of the layer's data: Y, X, C (channels), S (colours), others.
    shape : tuple of int
        Shape of a whole result; rows and columns are its last two axes.
    axes : tuple of int
        The axis of the layer that each axis of the result lies on.
    channel : int or None
        The axis of the channels; where axes come before it the result keeps it with length 1, so that those before it
        stay on their own sliders.
    n_channels : int
        Length of that axis, 1 where there is none.
    """

    letters: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    channel: int | None
    n_channels: int

    @property
    def keeps_channel(self) -> bool:
        """Whether the result has an axis of length 1 in place of the channels."""
        return self.channel is not None and self.channel in self.axes

    def index_of(self, plane: Plane) -> tuple[int, ...]:
        """Return where a plane of the layer lies in a result, without rows and columns: ``result[index]`` is 2-D."""
        return tuple(0 if self.letters[axis] == "C" else plane.index[self.letters[axis]] for axis in self.axes[:-2])

    def empty(self, dtype: Any, fill: float = 0) -> NDArray[Any]:
        """Return a whole result with nothing in it."""
        return np.full(self.shape, fill, dtype=dtype)


@dataclass(frozen=True)
class View:
    """The visible part of one plane.

    Attributes
    ----------
    plane : Plane
        The part, as a picture of its own.
    window : Window
        Where it lies in the whole plane, in pixels of the finest level.
    index : tuple of int
        Where the whole plane lies in a result of the layer.
    """

    plane: Plane
    window: Window
    index: tuple[int, ...]


def finest(layer: Layer) -> Any:
    """Return the data of a layer, of a pyramid its finest level; nothing is read."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def _names(layer: Layer) -> tuple[str, ...]:
    """Axis names in small letters; "" for the numbers that napari gives axes without a name."""
    return tuple(name.strip().lower() if name[:1].isalpha() else "" for name in layer.axis_labels)


def axis_letters(layer: Layer, channel_axis: int | None = None) -> str:
    """Return one letter for each axis of a layer's data.

    Rows and columns are the last two axes other than the channels, as napari shows them. Names are used where the user
    gave names; an axis without one is Z, T and so on, from the last one.

    Parameters
    ----------
    layer : Image or Labels
        The layer.
    channel_axis : int, optional
        The axis of the channels, where its name does not say it; 0 is the first.

    Raises
    ------
    ImageError
        If the channels are among the last two axes, or there are no rows and columns.
    """
    names = _names(layer)
    if layer.ndim < 2:
        raise ImageError(f"'{layer.name}' has one axis only; a picture with rows and columns is needed")
    letters = [_LETTERS.get(name, "") for name in names]
    if channel_axis is not None:
        if not -layer.ndim <= channel_axis < layer.ndim:
            raise ImageError(f"'{layer.name}' has no axis {channel_axis}; choose one from 0 to {layer.ndim - 1}")
        channel_axis %= layer.ndim
        letters = ["" if letter == "C" else letter for letter in letters]
        letters[channel_axis] = "C"
    if "C" in letters and letters.index("C") >= layer.ndim - 2:
        raise ImageError(
            f"the channels of '{layer.name}' are its last axes, where napari shows rows and columns; move them to the "
            f"front (numpy.moveaxis), or open the picture as RGB"
        )
    letters[-2:] = "Y", "X"
    spare = iter(_SPARE)
    used = set()
    for axis in reversed(range(layer.ndim)):
        if not letters[axis] or letters[axis] in used:
            letters[axis] = next(letter for letter in spare if letter not in letters)
        used.add(letters[axis])
    return "".join(letters) + ("S" if getattr(layer, "rgb", False) else "")


def has_channel_axis(layer: Layer) -> bool:
    """Return whether the axis names of a layer name its channels."""
    return "c" in {_LETTERS.get(name, "").lower() for name in _names(layer)[:-2]}


def frame_of(layer: Image, channel_axis: int | None = None) -> Frame:
    """Return how results are stacked on top of a layer."""
    letters = axis_letters(layer, channel_axis)
    shape = tuple(int(n) for n in finest(layer).shape)
    channel = letters.index("C") if "C" in letters else None
    kept = [axis for axis, letter in enumerate(letters) if letter not in "CS" or (letter == "C" and axis > 0)]
    sizes = tuple(1 if axis == channel else shape[axis] for axis in kept)
    return Frame(letters, sizes, tuple(kept), channel, 1 if channel is None else shape[channel])


def unit_text(unit: Any) -> str | None:
    """Return a short name of a unit, such as "um"; None for pixels."""
    text = f"{unit:~}".replace("µ", "u").replace("μ", "u") if hasattr(unit, "dimensionality") else str(unit)
    return None if text in ("", "pixel", "pixels", "px") else text


def pixel_size_of(layer: Layer) -> tuple[tuple[float, float] | None, str | None]:
    """Return height and width of a pixel and their unit; None where the layer does not say."""
    height, width = (abs(float(value)) for value in layer.scale[-2:])
    of_rows, of_cols = layer.units[-2:]
    unit = unit_text(of_cols)
    if unit_text(of_rows) != unit:
        try:
            height = float((height * of_rows).to(of_cols).magnitude)
        except Exception as error:  # pint's own, which the plugin does not import
            raise ImageError(
                f"rows and columns of '{layer.name}' have units that do not go together: {error}"
            ) from error
    if unit is None and (height, width) == (1.0, 1.0):
        return None, None
    return (height, width), unit


def planes_of_layer(
    layer: Image, *, channel_axis: int | None = None, channels: Sequence[int | str] | None = None
) -> list[Plane]:
    """Split an image layer into planes; nothing is read.

    Parameters
    ----------
    layer : Image
        2-D or a stack, with channels or RGB, of any kind of array; of a pyramid the finest level is taken.
    channel_axis : int, optional
        The axis of the channels, where its name does not say it.
    channels : sequence of int or str, optional
        Channels to use, at most 3; all of them by default.

    Raises
    ------
    ImageError
        If the axes are unclear, there are more than 3 channels and none was chosen, or pixels are no real numbers.
    """
    pixel_size, unit = pixel_size_of(layer)
    return planes_of(
        finest(layer),
        axis_letters(layer, channel_axis),
        channels=channels,
        name=layer.name,
        pixel_size=pixel_size,
        unit=unit,
        source=getattr(layer.source, "path", None),
    )


def current_plane(
    layer: Image,
    point: Sequence[float],
    *,
    channel_axis: int | None = None,
    channels: Sequence[int | str] | None = None,
) -> Plane:
    """Return the plane that is shown.

    Parameters
    ----------
    layer : Image
        The layer.
    point : sequence of float
        ``viewer.dims.point``: where the sliders stand, in world coordinates.
    channel_axis, channels
        As in :func:`planes_of_layer`.
    """
    position = _position(layer, point)
    letters = axis_letters(layer, channel_axis)
    wanted = {letter: position[axis] for axis, letter in enumerate(letters[: layer.ndim]) if letter not in "YXC"}
    for plane in planes_of_layer(layer, channel_axis=channel_axis, channels=channels):
        if plane.index == wanted:
            return plane
    raise ImageError(f"'{layer.name}' is not shown where the sliders stand; move them onto it")


def _position(layer: Layer, point: Sequence[float]) -> list[int]:
    """Return the slider positions in the layer's own pixels, held inside it."""
    world = np.zeros(layer.ndim)
    tail = np.asarray(point, dtype=float)[-layer.ndim :]
    world[layer.ndim - len(tail) :] = tail
    data = np.asarray(layer.world_to_data(world), dtype=float)
    return [int(np.clip(round(value), 0, n - 1)) for value, n in zip(data, finest(layer).shape, strict=False)]


def visible_field(
    layer: Image,
    point: Sequence[float],
    *,
    channel_axis: int | None = None,
    channels: Sequence[int | str] | None = None,
) -> View:
    """Return the part of the shown plane that the canvas shows, as a picture of its own.

    Parameters
    ----------
    layer, point, channel_axis, channels
        As in :func:`current_plane`. The whole plane is taken in the 3-D view.
    """
    plane = current_plane(layer, point, channel_axis=channel_axis, channels=channels)
    factors = np.ones(2)
    if layer.multiscale:
        factors = np.asarray(layer.downsample_factors[layer.data_level], dtype=float)[-2 - bool(layer.rgb) :][:2]
    corners = np.asarray(layer.corner_pixels, dtype=float)[:, -2:] * factors
    row, col = (int(value) for value in np.floor(corners[0]))
    stop_row, stop_col = (int(value) for value in np.ceil(corners[1] + factors))
    window = Window(row, col, max(0, stop_row - row), max(0, stop_col - col)).clipped(plane.shape)
    if min(window.shape) < 2:
        raise ImageError(f"nothing of '{layer.name}' is in view; move the view onto it")
    key: list[Any] = []
    for letter in plane.axes:
        if letter in "YX":
            key.append(window.slices()["YX".index(letter)])
        else:
            key.append(slice(None) if letter in "CS" else plane.index[letter])
    part = replace(
        plane,
        data=plane.data[tuple(key)],
        axes="".join(letter for letter in plane.axes if letter in "YXCS"),
        index={},
        name=f"{plane.title} (view)",
    )
    return View(part, window, frame_of(layer, channel_axis).index_of(plane))


def normal_regions(
    image_layer: Image,
    normal_layer: Labels | Shapes | None = None,
    ignore_layer: Labels | Shapes | None = None,
    *,
    fields: FieldRule = "names",
    channel_axis: int | None = None,
    channels: Sequence[int | str] | None = None,
    may_be_empty: bool = False,
) -> list[NormalRegion]:
    """Return what is normal in an image layer, plane by plane; planes in which nothing is are left out.

    Parameters
    ----------
    image_layer : Image
        The pictures.
    normal_layer : Labels or Shapes, optional
        What is normal: labels above 0, or the inside of rectangles, ellipses and polygons. Flat layers hold for all
        planes. Everything is normal where there is none.
    ignore_layer : Labels or Shapes, optional
        What is taken away from that.
    fields : {"names", "one", "each"}
        Whether the planes are separate specimens: where an axis is called field, position, sample or the like; no; or
        each of them.
    channel_axis, channels
        As in :func:`planes_of_layer`.
    may_be_empty : bool
        Return an empty list where nothing is normal.

    Raises
    ------
    ImageError
        If nothing is normal, or the layers do not lie on each other.
    """
    planes = planes_of_layer(image_layer, channel_axis=channel_axis, channels=channels)
    letters = axis_letters(image_layer, channel_axis)
    names = dict(zip(letters, _names(image_layer), strict=False))
    normal = None if normal_layer is None else _Area(normal_layer, image_layer, letters)
    ignore = None if ignore_layer is None else _Area(ignore_layer, image_layer, letters)
    regions = []
    for plane in planes:
        mask = None if normal is None else normal.mask(plane)
        if ignore is not None:
            ignored = ignore.mask(plane)
            mask = ~ignored if mask is None else mask & ~ignored
        if mask is None or mask.any():
            regions.append(NormalRegion(plane, mask, _field(plane, names, fields)))
    if not regions and not may_be_empty:
        marked = "the whole image" if normal_layer is None else f"'{normal_layer.name}'"
        less = "" if ignore_layer is None else f", less '{ignore_layer.name}',"
        raise ImageError(
            f"{marked}{less} leaves nothing normal in '{image_layer.name}': paint over what is normal, "
            f"or choose the whole image"
        )
    return regions


def _field(plane: Plane, names: dict[str, str], rule: FieldRule) -> str:
    if rule == "one":
        return plane.name
    axes = [a for a in plane.axes if a in plane.index]
    if rule == "names":
        axes = [a for a in axes if names.get(a) in _FIELD_NAMES]
    place = ",".join(f"{names.get(a) or a.lower()}={plane.index[a]}" for a in axes)
    return f"{plane.name} {place}".strip()


class _Area:
    """The area that a labels or shapes layer marks in the planes of an image layer.

    Positions go through the world: the two layers may have another scale, place and number of axes.
    """

    def __init__(self, layer: Labels | Shapes, image: Image, letters: str) -> None:
        self._letters = np.array(list(letters[: image.ndim]))
        self._axes = _axes_below(layer, image, self._letters)
        self._layer = layer
        self._image = image

    def mask(self, plane: Plane) -> NDArray[np.bool_]:
        """Return the area in one plane, (M, N); a copy, so that painting on does not reach a job that runs."""
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


_AREAS = ("rectangle", "ellipse", "polygon")


def _axes_below(layer: Layer, image: Image, letters: NDArray[Any]) -> list[int]:
    """Return the image axis that each axis of a layer lies on: the last ones, as napari shows them."""
    if layer.ndim > image.ndim:
        raise ImageError(
            f"'{layer.name}' has {layer.ndim} axes, but '{image.name}' has {image.ndim}; draw the area on the image"
        )
    axes = list(range(image.ndim))
    if layer.ndim == image.ndim - 1 and "C" in letters:
        return [axis for axis in axes if letters[axis] != "C"]
    return axes[image.ndim - layer.ndim :]


def _to_world(layer: Layer, axes: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and offset from some axes of a layer to the same axes of the world."""
    origin = np.asarray(layer.data_to_world(np.zeros(layer.ndim)), dtype=float)
    columns = [np.asarray(layer.data_to_world(unit), dtype=float) - origin for unit in np.eye(layer.ndim)]
    kept = list(axes)
    return np.stack(columns, axis=1)[np.ix_(kept, kept)], origin[kept]


def _mapping(
    source: Layer, source_axes: Sequence[int], target: Layer, target_axes: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrix and offset from positions in one layer to positions in another one."""
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


def output_transform(
    layer: Image, *, channel_axis: int | None = None, offset: tuple[int, int] = (0, 0), index: Sequence[int] = ()
) -> dict[str, Any]:
    """Return all fields that put a result on top of its image.

    Parameters
    ----------
    layer : Image
        The image.
    channel_axis : int, optional
        As in :func:`planes_of_layer`.
    offset : (int, int)
        Row and column of the image at which the result begins.
    index : sequence of int, optional
        Position of the result on its axes before rows and columns, where it is one plane of a stack.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units and axis_labels, for ``viewer.add_image`` and the like.
    """
    from napari.utils.transforms import Affine

    frame = frame_of(layer, channel_axis)
    axes = list(frame.axes)
    scale, translate = np.array(layer.scale, dtype=float), np.array(layer.translate, dtype=float)
    rotate = np.array(layer.rotate, dtype=float)
    shear = np.array(layer.shear, dtype=float)
    start = np.zeros(layer.ndim)
    start[axes] = [*(index or [0] * (len(axes) - 2)), *offset]
    if frame.keeps_channel:  # one entry that is as long as all channels: it is seen with each of them
        start[frame.channel] = (frame.n_channels - 1) / 2
    linear = Affine(scale=scale, rotate=rotate, shear=shear, ndim=layer.ndim).linear_matrix
    translate = translate + linear @ start
    if frame.keeps_channel:
        scale[frame.channel] *= frame.n_channels
    affine = np.asarray(layer.affine.affine_matrix, dtype=float)
    with_last = [*axes, layer.ndim]
    return {
        "scale": tuple(scale[axes].tolist()),
        "translate": tuple(translate[axes].tolist()),
        "rotate": rotate[np.ix_(axes, axes)],
        "shear": _kept_shear(shear, layer.ndim, axes),
        "affine": affine[np.ix_(with_last, with_last)],
        "units": tuple(layer.units[axis] for axis in axes),
        "axis_labels": tuple(layer.axis_labels[axis] for axis in axes),
    }


def _kept_shear(shear: NDArray[np.float64], n: int, axes: Sequence[int]) -> NDArray[np.float64]:
    """Keep the shears between some axes of n; napari lists the entries above the diagonal row by row."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = shear
    return np.asarray(matrix[np.ix_(axes, axes)][np.triu_indices(len(axes), 1)])
