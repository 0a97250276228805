"""Axes of a layer: letters, frame of its results, pixel size and unit; no pixel is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane

if TYPE_CHECKING:
    from napari.layers import Image, Layer


__all__ = [
    "bare",
    "Frame",
    "axis_letters",
    "axis_names",
    "finest",
    "frame_of",
    "has_channel_axis",
    "pixel_size_of",
    "unit_text",
]

_LETTERS = {
    **dict.fromkeys(("c", "ch", "channel", "channels", "colour", "color", "wavelength"), "C"),
    **dict.fromkeys(("t", "time", "frame", "timepoint"), "T"),
    **dict.fromkeys(("z", "depth", "plane", "slice"), "Z"),
}


# Letters of axes without a known name, the last axis first.
_SPARE = "ZTABDEFGHIJKLMNOPQRUVW"


@dataclass(frozen=True)
class Frame:
    """Frame of the results of an image layer: its axes without the channels.

    Attributes
    ----------
    letters : str
        One letter per axis of the layer's data: Y, X, C (channels), S (colours), others.
    shape : tuple of int
        Shape of a result; rows and columns are its last two axes.
    axes : tuple of int
        Axis of the layer for each axis of the result.
    channel : int or None
        Axis of the channels. If other axes precede it, the result keeps it with length 1, so that these stay on their
        sliders.
    n_channels : int
        Length of the channel axis, 1 without one.
    """

    letters: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    channel: int | None
    n_channels: int

    @property
    def keeps_channel(self) -> bool:
        """True if the result has an axis of length 1 for the channels."""
        return self.channel is not None and self.channel in self.axes

    def index_of(self, plane: Plane) -> tuple[int, ...]:
        """Return the index of a plane in a result, without rows and columns: ``result[index]`` is 2-D."""
        return tuple(0 if self.letters[axis] == "C" else plane.index[self.letters[axis]] for axis in self.axes[:-2])

    def empty(self, dtype: Any, fill: float = 0) -> NDArray[Any]:
        """Return an empty result."""
        return np.full(self.shape, fill, dtype=dtype)


def bare(thing: Any) -> Any:
    """Return a napari object without the proxy for plugins, which does not compare equal to it."""
    while type(thing).__name__.endswith("PublicOnlyProxy"):
        thing = thing.__wrapped__
    return thing


def finest(layer: Layer) -> Any:
    """Return the data of a layer, the finest level of a multiscale one; no pixel is read."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def axis_names(layer: Layer) -> tuple[str, ...]:
    """Return axis names in lower case; "" for the numbers of axes without a name."""
    return tuple(name.strip().lower() if name[:1].isalpha() else "" for name in layer.axis_labels)


def axis_letters(layer: Layer, channel_axis: int | None = None) -> str:
    """Return one letter for each axis of a layer's data.

    Rows and columns are the last two axes other than the channels, as in napari. Known axis names set their letters;
    other axes are Z, T and so on, from the last one.

    Parameters
    ----------
    layer : Image or Labels
        The layer.
    channel_axis : int, optional
        Axis of the channels, counted from 0; None to decide by axis name.

    Raises
    ------
    ImageError
        If the channels are one of the last two axes, or there are fewer than two axes.
    """
    names = axis_names(layer)
    if layer.ndim < 2:
        raise ImageError(f"'{layer.name}' has only one axis; an image with rows and columns is needed")
    letters = [_LETTERS.get(name, "") for name in names]
    if channel_axis is not None:
        if not -layer.ndim <= channel_axis < layer.ndim:
            raise ImageError(f"'{layer.name}' has no axis {channel_axis}; choose one from 0 to {layer.ndim - 1}")
        channel_axis %= layer.ndim
        letters = ["" if letter == "C" else letter for letter in letters]
        letters[channel_axis] = "C"
    if "C" in letters and letters.index("C") >= layer.ndim - 2:
        raise ImageError(
            f"the channels of '{layer.name}' are one of its last axes, which napari shows as rows and columns: move "
            "them to the front, or open the image as RGB"
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
    """Return whether an axis of a layer is named as its channels."""
    return "c" in {_LETTERS.get(name, "").lower() for name in axis_names(layer)[:-2]}


def frame_of(layer: Image, channel_axis: int | None = None) -> Frame:
    """Return the frame of the results of a layer."""
    letters = axis_letters(layer, channel_axis)
    shape = tuple(int(n) for n in finest(layer).shape)
    channel = letters.index("C") if "C" in letters else None
    kept = [axis for axis, letter in enumerate(letters) if letter not in "CS" or (letter == "C" and axis > 0)]
    sizes = tuple(1 if axis == channel else shape[axis] for axis in kept)
    return Frame(letters, sizes, tuple(kept), channel, 1 if channel is None else shape[channel])


def unit_text(unit: Any) -> str | None:
    """Return the short name of a unit, such as "um"; None for pixels."""
    text = f"{unit:~}".replace("µ", "u").replace("μ", "u") if hasattr(unit, "dimensionality") else str(unit)
    return None if text in ("", "pixel", "pixels", "px") else text


def pixel_size_of(layer: Layer) -> tuple[tuple[float, float] | None, str | None]:
    """Return height and width of a pixel and their unit; None if unknown."""
    height, width = (abs(float(value)) for value in layer.scale[-2:])
    of_rows, of_cols = layer.units[-2:]
    unit = unit_text(of_cols)
    if unit_text(of_rows) != unit:
        try:
            height = float((height * of_rows).to(of_cols).magnitude)
        except Exception as error:  # an error of pint, which the plugin does not import
            raise ImageError(f"rows and columns of '{layer.name}' have incompatible units: {error}") from error
    if unit is None and (height, width) == (1.0, 1.0):
        return None, None
    return (height, width), unit
