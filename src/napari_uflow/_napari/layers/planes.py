"""Planes of an image layer: all planes, the current one, its visible part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane, planes_of

if TYPE_CHECKING:
    from napari.layers import Image, Layer
from napari_uflow._napari.layers.axes import axis_letters, finest, frame_of, pixel_size_of

__all__ = ["View", "current_plane", "planes_of_layer", "visible_part"]


@dataclass(frozen=True)
class View:
    """Visible part of a plane.

    Attributes
    ----------
    plane : Plane
        The part, as a plane.
    window : Window
        Its window in the whole plane, in pixels of the finest level.
    index : tuple of int
        Index of the whole plane in a result of the layer.
    """

    plane: Plane
    window: Window
    index: tuple[int, ...]


def planes_of_layer(
    layer: Image, *, channel_axis: int | None = None, channels: Sequence[int | str] | None = None
) -> list[Plane]:
    """Split an image layer into planes; no pixel is read.

    Parameters
    ----------
    layer : Image
        2-D image or stack, with channels or RGB, of any array type; the finest level of a multiscale layer is used.
    channel_axis : int, optional
        Axis of the channels; None to decide by axis name.
    channels : sequence of int or str, optional
        Channels to use, at most 3; all by default.

    Raises
    ------
    ImageError
        If the axes are unclear, more than 3 channels are used, or pixels are not real numbers.
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
    """Return the plane at the sliders.

    Parameters
    ----------
    layer : Image
        The layer.
    point : sequence of float
        ``viewer.dims.point``, the slider positions in world coordinates.
    channel_axis, channels
        As in :func:`planes_of_layer`.
    """
    position = _position(layer, point)
    letters = axis_letters(layer, channel_axis)
    wanted = {letter: position[axis] for axis, letter in enumerate(letters[: layer.ndim]) if letter not in "YXC"}
    for plane in planes_of_layer(layer, channel_axis=channel_axis, channels=channels):
        if plane.index == wanted:
            return plane
    raise ImageError(f"'{layer.name}' has no plane at the sliders: move them onto it")


def _position(layer: Layer, point: Sequence[float]) -> list[int]:
    """Return the slider positions in pixels of the layer, clipped to it."""
    world = np.zeros(layer.ndim)
    tail = np.asarray(point, dtype=float)[-layer.ndim :]
    world[layer.ndim - len(tail) :] = tail
    data = np.asarray(layer.world_to_data(world), dtype=float)
    return [int(np.clip(round(value), 0, n - 1)) for value, n in zip(data, finest(layer).shape, strict=False)]


def visible_part(
    layer: Image,
    point: Sequence[float],
    *,
    channel_axis: int | None = None,
    channels: Sequence[int | str] | None = None,
) -> View:
    """Return the visible part of the current plane.

    Parameters
    ----------
    layer, point, channel_axis, channels
        As in :func:`current_plane`. In the 3-D view the whole plane is returned.
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
        raise ImageError(f"no part of '{layer.name}' is visible: move the view onto it")
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
