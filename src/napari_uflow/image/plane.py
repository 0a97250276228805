"""Planes: 2-D images with channels, read window by window from an array, and the division of stacks into planes.

Only `shape`, `dtype` and basic slices of the array are used, so numpy, memory-mapped, dask and zarr arrays all work.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ImageError
from napari_uflow.image.channels import channel_names_of, chosen_channels, default_channels
from napari_uflow.image.grid import Window

__all__ = ["LazyArray", "Plane", "planes_of"]


class LazyArray(Protocol):
    """Array with a shape, a dtype, and basic slices that `numpy.asarray` converts."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of one value."""

    def __getitem__(self, key: Any, /) -> Any:
        """Return the part given by a tuple of integers and slices."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Plane:
    """2-D image with channels; pixels are read on demand, window by window.

    Parameters
    ----------
    data : array-like
        Numpy, memory-mapped, dask or zarr array of booleans, integers or real numbers.
    axes : str
        One letter per axis of `data`, in any order: Y (rows), X (columns), C and S (channels), and others.
    index : mapping of str to int
        Fixed position on every axis other than Y, X, C and S.
    channels : tuple of int or None
        Channels to read, in this order; None for all. With both C and S, channel ``c * n_samples + s``.
    name : str
        Name of the image that contains the plane.
    pixel_size : (float, float) or None
        Height and width of a pixel, in `unit`; None if unknown.
    unit : str or None
        Unit of the pixel size, such as "um"; None if unknown.
    z_spacing : float or None
        Distance of two planes along axis Z, in `unit`; None if unknown.
    frame_interval : float or None
        Time between two planes along axis T, in seconds; None if unknown.
    source : str or None
        Path of the file; None for an array in memory.

    Raises
    ------
    ImageError
        If the axes do not fit the data, the image is empty, or its pixels are not real numbers.
    """

    data: LazyArray = field(repr=False)
    axes: str = "YX"
    index: Mapping[str, int] = field(default_factory=dict)
    channels: tuple[int, ...] | None = None
    name: str = "image"
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    z_spacing: float | None = None
    frame_interval: float | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        sizes = _sizes(self.data, self.axes, self.name)
        _check_type(self.data, self.name)
        if min(sizes["Y"], sizes["X"]) < 1:
            raise ImageError(f"'{self.name}' is empty: it has {sizes['Y']} rows and {sizes['X']} columns")
        object.__setattr__(self, "index", {a: int(i) for a, i in self.index.items()})
        others = [a for a in self.axes if a not in "YXCS"]
        if sorted(self.index) != sorted(others):
            raise ImageError(f"index of '{self.name}' must give a position on the axes {others}, not on {self.index}")
        for axis, position in self.index.items():
            if not 0 <= position < sizes[axis]:
                raise ImageError(f"position on axis {axis} of '{self.name}' must be 0 to {sizes[axis] - 1}: {position}")
        n_available = sizes.get("C", 1) * sizes.get("S", 1)
        if n_available < 1:
            raise ImageError(f"'{self.name}' has no channel")
        if self.channels is not None:
            object.__setattr__(self, "channels", tuple(int(c) for c in self.channels))
            if not self.channels or not all(0 <= c < n_available for c in self.channels):
                raise ImageError(
                    f"channels of '{self.name}' must be numbers from 0 to {n_available - 1}, not {self.channels}"
                )
        if self.pixel_size is not None:
            object.__setattr__(self, "pixel_size", _checked_pixel_size(self.pixel_size, self.name))
        for what, step in (("z_spacing", self.z_spacing), ("frame_interval", self.frame_interval)):
            if step is not None and not (math.isfinite(step) and step > 0):
                raise ImageError(f"{what} of '{self.name}' must be a number above 0, not {step}")

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns (M, N), in pixels."""
        return int(self.data.shape[self.axes.index("Y")]), int(self.data.shape[self.axes.index("X")])

    @property
    def n_channels(self) -> int:
        """Number of channels C that `read` returns."""
        return len(self._channels)

    @property
    def title(self) -> str:
        """Name of the image and, in a stack, the position in it: "embryo t=3,z=10"."""
        return f"{self.name} {self.label}".strip()

    @property
    def label(self) -> str:
        """Position of the plane in its stack, such as "t=3,z=10"; "" for an image of one plane."""
        sizes = dict(zip(self.axes, self.data.shape, strict=True))
        return ",".join(f"{a.lower()}={self.index[a]}" for a in self.axes if a in self.index and sizes[a] > 1)

    @property
    def _channels(self) -> tuple[int, ...]:
        if self.channels is not None:
            return self.channels
        return tuple(range(math.prod(n for a, n in zip(self.axes, self.data.shape, strict=True) if a in "CS")))

    def is_same_image(self, other: "Plane") -> bool:
        """Return True if both are the same position of the same array."""
        return self.data is other.data and self.index == other.index and self.shape == other.shape

    def read(self, window: Window | None = None) -> npt.NDArray[np.float32]:
        """Read the pixels of a window into a new array.

        Pixels outside the image are reflected, including the border pixel (``numpy.pad``'s "symmetric"), repeatedly for
        an image smaller than the window.

        Parameters
        ----------
        window : Window or None
            Window in pixels; the whole image by default.

        Returns
        -------
        (C, h, w) array, float32
            Values of the file, including NaN and infinities; values beyond the range of float32 become infinite.
        """
        window = Window(0, 0, *self.shape) if window is None else window
        if 0 in window.shape:
            return np.empty((self.n_channels, *window.shape), dtype=np.float32)
        rows, row_take = _mirrored(window.row, window.stop_row, self.shape[0])
        cols, col_take = _mirrored(window.col, window.stop_col, self.shape[1])
        values = self._read_inside(rows, cols)
        if row_take is not None:
            values = values[:, row_take]
        if col_take is not None:
            values = values[:, :, col_take]
        return np.ascontiguousarray(values)

    @property
    def can_be_missing(self) -> bool:
        """Pixels may be NaN or infinite: they are floats, or were made of floats."""
        return bool(getattr(self.data, "can_be_missing", np.dtype(self.data.dtype).kind == "f"))

    def read_valid(self, window: Window | None = None) -> npt.NDArray[np.bool_]:
        """Return a mask of the pixels whose channels are all finite; outside the image, of their reflections.

        Returns
        -------
        (h, w) array, bool
            True everywhere for integers, which are not read.
        """
        if not self.can_be_missing:
            return np.ones(self.shape if window is None else window.shape, dtype=bool)
        return np.asarray(np.isfinite(self.read(window)).all(axis=0))

    def _read_inside(self, rows: slice, cols: slice) -> npt.NDArray[np.float32]:
        sizes = dict(zip(self.axes, self.data.shape, strict=True))
        n_samples = int(sizes.get("S", 1))
        channels = self._channels
        values = np.empty((len(channels), rows.stop - rows.start, cols.stop - cols.start), dtype=np.float32)
        # Samples of a pixel are adjacent in the file, so all of them are read; channels are read as one slice if they
        # are evenly spaced, and otherwise one by one, because they may be 40 pages apart.
        for run in _runs(sorted({c // n_samples for c in channels})):
            key = [
                {"Y": rows, "X": cols, "C": run, "S": slice(0, n_samples)}[a] if a in "YXCS" else self.index[a]
                for a in self.axes
            ]
            block = np.asarray(self.data[tuple(key)])
            kept = [a for a in self.axes if a in "YXCS"]
            block = block.transpose([kept.index(a) for a in "CSYX" if a in kept])
            block = block.reshape(-1, n_samples, *values.shape[1:])
            for i, channel in enumerate(channels):
                c, s = divmod(channel, n_samples)
                if c in range(run.start, run.stop, run.step):
                    with np.errstate(over="ignore"):
                        values[i] = block[(c - run.start) // run.step, s]
        return values


def planes_of(
    data: LazyArray,
    axes: str | None = None,
    *,
    channels: int | str | Sequence[int | str] | None = None,
    channel_names: Sequence[str] | None = None,
    name: str = "image",
    pixel_size: tuple[float, float] | None = None,
    unit: str | None = None,
    z_spacing: float | None = None,
    frame_interval: float | None = None,
    source: str | None = None,
) -> list[Plane]:
    """Divide an array into planes, one per position on the axes other than rows, columns and channels.

    Parameters
    ----------
    data : array-like
        Numpy, memory-mapped, dask or zarr array; no pixel is read here.
    axes : str or None
        One letter per axis: Y rows, X columns, C channels, S samples of a colour pixel; T, Z and any other letter give
        separate planes. By default, two axes are YX, three are YXS if the last one has 3 or 4 entries of uint8 or
        uint16 and the others are longer, and otherwise ZYX; more axes are an error.
    channels : int, str, sequence of them, or None
        Channels to use, at most 3, by number from 0 or by name. By default all channels except the alpha of RGBA.
    channel_names : sequence of str or None
        Names of the entries of axis C (of S without C).
    name, pixel_size, unit, z_spacing, frame_interval, source
        Attributes of every :class:`Plane`.

    Returns
    -------
    list of Plane
        Planes in the order of the array, the last axis fastest.

    Raises
    ------
    ImageError
        If the axes are ambiguous or do not fit the array, a channel is unknown, there are more than 3 channels and none
        was chosen, or the pixels are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> [plane.title for plane in planes_of(np.zeros((2, 3, 3), np.uint8), name="cells")]
    ['cells z=0', 'cells z=1']
    """
    if not (hasattr(data, "shape") and hasattr(data, "dtype")):
        raise ImageError(f"'{name}' must be an array, not a {type(data).__name__}; use numpy.asarray, or one level")
    _check_type(data, name)
    axes = _guessed_axes(data, name) if axes is None else axes.upper()
    sizes = _sizes(data, axes, name)
    names = channel_names_of(sizes, channel_names, name)
    others = [a for a in axes if a not in "YXCS"]
    if 0 in data.shape:
        raise ImageError(f"'{name}' is empty: its shape is {tuple(data.shape)}")
    if channels is None:
        selected = default_channels(sizes, names, name)
    else:
        wanted = [channels] if isinstance(channels, (int, str, np.integer)) else list(channels)
        selected = chosen_channels(wanted, names, name)
    return [
        Plane(
            data=data,
            axes=axes,
            index=dict(zip(others, position, strict=True)),
            channels=selected,
            name=name,
            pixel_size=pixel_size,
            unit=unit,
            z_spacing=z_spacing,
            frame_interval=frame_interval,
            source=source,
        )
        for position in itertools.product(*(range(sizes[a]) for a in others))
    ]


def _guessed_axes(data: LazyArray, name: str) -> str:
    shape = tuple(data.shape)
    if len(shape) == 2:
        return "YX"
    if len(shape) == 3:
        is_colour = shape[2] in (3, 4) and np.dtype(data.dtype) in (np.uint8, np.uint16) and min(shape[:2]) > shape[2]
        return "YXS" if is_colour else "ZYX"
    if len(shape) < 2:
        raise ImageError(f"'{name}' has the shape {shape}; an image requires at least rows and columns")
    example = "TZCYX"[-len(shape) :]
    raise ImageError(
        f"'{name}' has {len(shape)} axes of lengths {shape}; name them with axes=, one letter each, such as "
        f"axes='{example}' (T time, Z depth, C channels, Y rows, X columns, S colours)"
    )


def _sizes(data: LazyArray, axes: str, name: str) -> dict[str, int]:
    shape = tuple(data.shape)
    if len(axes) != len(shape):
        raise ImageError(f"axes of '{name}' must be {len(shape)} letters for the shape {shape}, not '{axes}'")
    if len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise ImageError(f"axes of '{name}' must name Y and X and no axis twice, not '{axes}'")
    return {a: int(n) for a, n in zip(axes, shape, strict=True)}


def _check_type(data: LazyArray, name: str) -> None:
    dtype = np.dtype(data.dtype)
    if dtype.kind == "c":
        raise ImageError(
            f"'{name}' has complex pixels ({dtype}); convert them first, for example with numpy.abs(image)"
        )
    if dtype.kind not in "buif":
        raise ImageError(f"'{name}' has pixels of type {dtype}; convert it to whole or real numbers, such as float32")


def _checked_pixel_size(pixel_size: Iterable[float], name: str) -> tuple[float, float]:
    values = tuple(float(v) for v in pixel_size)
    if len(values) != 2 or not all(math.isfinite(v) and v > 0 for v in values):
        raise ImageError(f"pixel size of '{name}' must be two numbers above 0 (height, width), not {values}")
    return values[0], values[1]


def _runs(numbers: Sequence[int]) -> list[slice]:
    """Return one slice if the sorted numbers are evenly spaced, and otherwise one slice per number."""
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    if len(steps) <= 1:
        return [slice(numbers[0], numbers[-1] + 1, steps.pop() if steps else 1)]
    return [slice(n, n + 1, 1) for n in numbers]


def _mirrored(start: int, stop: int, size: int) -> tuple[slice, npt.NDArray[np.intp] | None]:
    """Return the part of an axis to read for start to stop, and the positions to select in it (None for all)."""
    if start >= 0 and stop <= size:
        return slice(start, stop), None
    places = np.arange(start, stop) % (2 * size)
    places = np.minimum(places, 2 * size - 1 - places)
    low, high = int(places.min()), int(places.max()) + 1
    return slice(low, high), places - low
