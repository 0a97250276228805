"""Axes of a layer: their letters, the frame that results are stacked in, pixel size and unit; nothing is read."""

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


def bare(thing: Any) -> Any:
    """Return a napari object without the proxy that plugins see it through, so that it equals itself as a key."""
    while type(thing).__name__.endswith("PublicOnlyProxy"):
        thing = thing.__wrapped__
    return thing


def finest(layer: Layer) -> Any:
    """Return the data of a layer, of a pyramid its finest level; nothing is read."""
    return layer.data[0] if getattr(layer, "multiscale", False) else layer.data


def axis_names(layer: Layer) -> tuple[str, ...]:
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
    names = axis_names(layer)
    if layer.ndim < 2:
        raise ImageError(f"'{layer.name}' has one axis only; an image with rows and columns is needed")
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
            f"front (numpy.moveaxis), or open the image as RGB"
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
    return "c" in {_LETTERS.get(name, "").lower() for name in axis_names(layer)[:-2]}


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
