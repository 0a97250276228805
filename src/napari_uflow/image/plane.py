"""One 2-D image with channels, read piece by piece from an array of any kind; and how stacks split into such planes.

The array is only asked for `shape`, `dtype` and basic slices, so numpy, memory-mapped, dask and zarr arrays all do.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ImageError
from napari_uflow.image.grid import Window

__all__ = ["LazyArray", "Plane", "planes_of"]

MAX_CHANNELS = 3
"""Pre-trained backbones look at three colours; more channels than that must be chosen from."""

_SAMPLE_NAMES = ("red", "green", "blue", "alpha")


class LazyArray(Protocol):
    """What is asked of an array: its shape, its dtype, and basic slices that `numpy.asarray` understands."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of one value."""

    def __getitem__(self, key: Any, /) -> Any:
        """Return a part, for a tuple of integers and slices."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Plane:
    """One 2-D image with channels; nothing is read before `read` is called, and then only what is needed.

    Parameters
    ----------
    data : array-like
        Numpy, memory-mapped, dask or zarr array of booleans, integers or real numbers.
    axes : str
        One letter for each axis of `data`, in any order: Y (rows), X (columns), C and S (channels), and others.
    index : mapping of str to int
        The fixed position on every axis other than Y, X, C and S.
    channels : tuple of int or None
        The channels to read, in this order; None for all. With both C and S, channel ``c * n_samples + s``.
    name : str
        Name of the image that the plane is a part of.
    pixel_size : tuple of float or None
        Height and width of a pixel, in `unit`; None where unknown.
    unit : str or None
        Unit of the pixel size, such as "um"; None where unknown.
    source : str or None
        Path of the file; None for an array in memory.

    Raises
    ------
    ImageError
        If the axes do not fit the data, the image is empty, or its type is not one of numbers.
    """

    data: LazyArray = field(repr=False)
    axes: str = "YX"
    index: Mapping[str, int] = field(default_factory=dict)
    channels: tuple[int, ...] | None = None
    name: str = "image"
    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
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
        """Name of the image and, in a stack, the place in it: "embryo t=3,z=10"."""
        return f"{self.name} {self.label}".strip()

    @property
    def label(self) -> str:
        """Where the plane lies in its stack, such as "t=3,z=10"; "" for an image that is one plane."""
        sizes = dict(zip(self.axes, self.data.shape, strict=True))
        return ",".join(f"{a.lower()}={self.index[a]}" for a in self.axes if a in self.index and sizes[a] > 1)

    @property
    def _channels(self) -> tuple[int, ...]:
        if self.channels is not None:
            return self.channels
        return tuple(range(math.prod(n for a, n in zip(self.axes, self.data.shape, strict=True) if a in "CS")))

    def read(self, window: Window | None = None) -> npt.NDArray[np.float32]:
        """Return the pixels of a window as new numbers.

        What sticks out of the image is its mirror image, the border pixel included (``numpy.pad``'s "symmetric"),
        repeated as often as an image smaller than the window needs.

        Parameters
        ----------
        window : Window or None
            The whole image by default.

        Returns
        -------
        ndarray of float32, shape (C, h, w)
            Values as they are in the file, NaN and infinities included; beyond the range of float32, infinity.
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

    def read_valid(self, window: Window | None = None) -> npt.NDArray[np.bool_]:
        """Return where all channels are finite numbers; outside of the image, where their mirror image is.

        Returns
        -------
        ndarray of bool, shape (h, w)
            Integers are finite without being read.
        """
        if np.dtype(self.data.dtype).kind != "f":
            return np.ones(self.shape if window is None else window.shape, dtype=bool)
        return np.asarray(np.isfinite(self.read(window)).all(axis=0))

    def _read_inside(self, rows: slice, cols: slice) -> npt.NDArray[np.float32]:
        sizes = dict(zip(self.axes, self.data.shape, strict=True))
        n_samples = int(sizes.get("S", 1))
        channels = self._channels
        values = np.empty((len(channels), rows.stop - rows.start, cols.stop - cols.start), dtype=np.float32)
        # Samples of a pixel lie side by side in the file, so all of them are read; channels are read as one slice
        # where one can name them, or else one by one: they may be 40 pages apart.
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
    source: str | None = None,
) -> list[Plane]:
    """Split an array into its planes: one for every position on the axes other than rows, columns and channels.

    Parameters
    ----------
    data : array-like
        Numpy, memory-mapped, dask or zarr array; nothing of it is read here.
    axes : str or None
        One letter for each axis: Y rows, X columns, C channels, S samples of a colour pixel; T, Z and any other letter
        give separate planes. Without it, only the clear cases are guessed: two axes are YX; three are YXS if the last
        has 3 or 4 entries of 8 or 16 bits without sign and the others are longer, and else a stack, ZYX.
    channels : int, str, or sequence of them, or None
        Channels to use, at most 3, by number from 0 or by name. By default all of them, without the alpha of RGBA.
    channel_names : sequence of str or None
        Names of the entries of axis C (of S where there is no C).
    name, pixel_size, unit, source
        Passed on to every `Plane`.

    Returns
    -------
    list of Plane
        In the order of the array, the last axis fastest.

    Raises
    ------
    ImageError
        If the axes are unclear or do not fit, a channel is unknown, there are more than 3 channels and none was
        chosen, or the pixels are not real numbers.
    """
    if not (hasattr(data, "shape") and hasattr(data, "dtype")):
        raise ImageError(f"'{name}' must be an array, not a {type(data).__name__}; use numpy.asarray, or one level")
    _check_type(data, name)
    axes = _guessed_axes(data, name) if axes is None else axes.upper()
    sizes = _sizes(data, axes, name)
    names = _all_channel_names(sizes, channel_names, name)
    others = [a for a in axes if a not in "YXCS"]
    if 0 in data.shape:
        raise ImageError(f"'{name}' is empty: its shape is {tuple(data.shape)}")
    if channels is None:
        selected = _default_channels(sizes, names, name)
    else:
        wanted = [channels] if isinstance(channels, (int, str, np.integer)) else list(channels)
        selected = _chosen_channels(wanted, names, name)
    return [
        Plane(
            data=data,
            axes=axes,
            index=dict(zip(others, position, strict=True)),
            channels=selected,
            name=name,
            pixel_size=pixel_size,
            unit=unit,
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
        raise ImageError(f"'{name}' is no image: it has the shape {shape}, and at least rows and columns are needed")
    example = "TZCYX"[-len(shape) :]
    raise ImageError(
        f"'{name}' has {len(shape)} axes of lengths {shape}; say what they are with axes=, one letter for each, "
        f"such as axes='{example}' (T time, Z depth, C channels, Y rows, X columns, S colours)"
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
        raise ImageError(f"'{name}' has complex pixels ({dtype}); take their size first, for example numpy.abs(image)")
    if dtype.kind not in "buif":
        raise ImageError(f"'{name}' has pixels of type {dtype}; convert it to whole or real numbers, such as float32")


def _checked_pixel_size(pixel_size: Iterable[float], name: str) -> tuple[float, float]:
    values = tuple(float(v) for v in pixel_size)
    if len(values) != 2 or not all(math.isfinite(v) and v > 0 for v in values):
        raise ImageError(f"pixel size of '{name}' must be two numbers above 0 (height, width), not {values}")
    return values[0], values[1]


def _all_channel_names(sizes: Mapping[str, int], given: Sequence[str] | None, name: str) -> list[str]:
    n_channels, n_samples = sizes.get("C", 1), sizes.get("S", 1)
    is_colour = n_samples in (3, 4)
    samples = [_SAMPLE_NAMES[s] if is_colour else str(s) for s in range(n_samples)]
    if given is None:
        if "S" in sizes and n_channels == 1:
            return samples
        given = [str(c) for c in range(n_channels)]
    if len(given) == n_channels * n_samples:
        return [str(n) for n in given]
    if len(given) != n_channels:
        raise ImageError(f"'{name}' has {n_channels} channels but {len(given)} channel names: {', '.join(given)}")
    return [f"{n} {s}" for n in given for s in samples]


def _default_channels(sizes: Mapping[str, int], names: Sequence[str], name: str) -> tuple[int, ...] | None:
    has_alpha = sizes.get("S") == 4  # it says how opaque a pixel is, nothing about the specimen
    kept = [c for c in range(len(names)) if not (has_alpha and c % 4 == 3)]
    if len(kept) > MAX_CHANNELS:
        raise ImageError(
            f"'{name}' has {len(kept)} channels ({', '.join(names[c] for c in kept)}); choose 1 to {MAX_CHANNELS} of "
            f"them by name or by number from 0"
        )
    return None if len(kept) == len(names) else tuple(kept)


def _chosen_channels(wanted: Sequence[int | str], names: Sequence[str], name: str) -> tuple[int, ...]:
    if not 1 <= len(wanted) <= MAX_CHANNELS:
        raise ImageError(f"channels must be 1 to {MAX_CHANNELS} names or numbers, not {list(wanted)}")
    folded = [n.casefold() for n in names]
    selected = []
    for choice in wanted:
        if isinstance(choice, str) and choice in names:
            selected.append(list(names).index(choice))
        elif isinstance(choice, str) and folded.count(choice.casefold()) == 1:
            selected.append(folded.index(choice.casefold()))
        elif not isinstance(choice, str) and 0 <= choice < len(names):
            selected.append(int(choice))
        else:
            listed = ", ".join(f"{i} {n}" if n != str(i) else n for i, n in enumerate(names))
            raise ImageError(f"'{name}' has no channel {choice!r}; it has: {listed}")
    if len(set(selected)) != len(selected):
        raise ImageError(f"channels must be different ones, not {list(wanted)}")
    return tuple(selected)


def _runs(numbers: Sequence[int]) -> list[slice]:
    """Return one slice if the sorted numbers are evenly spaced, or else one slice for each."""
    steps = {b - a for a, b in itertools.pairwise(numbers)}
    if len(steps) <= 1:
        return [slice(numbers[0], numbers[-1] + 1, steps.pop() if steps else 1)]
    return [slice(n, n + 1, 1) for n in numbers]


def _mirrored(start: int, stop: int, size: int) -> tuple[slice, npt.NDArray[np.intp] | None]:
    """Return the part of an axis to read, and the places in it to take (None: as they are), for start to stop."""
    if start >= 0 and stop <= size:
        return slice(start, stop), None
    places = np.arange(start, stop) % (2 * size)
    places = np.minimum(places, 2 * size - 1 - places)
    low, high = int(places.min()), int(places.max()) + 1
    return slice(low, high), places - low
