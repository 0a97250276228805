"""Lazy arrays that show the pixels of another one as its file says: turned, or with other colours."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_uflow.image.plane import LazyArray
from napari_uflow.store.raw import ranges_of

__all__ = ["Flipped", "Recoloured", "oriented"]


@dataclass(frozen=True, eq=False)
class Flipped:
    """Array with some axes in reverse order, indexed with integers and slices (steps above 0).

    Attributes
    ----------
    data : array-like
        Array with shape, dtype and basic slices.
    flipped : frozenset of int
        Axes to reverse.
    """

    data: LazyArray
    flipped: frozenset[int]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype)
        return dtype

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Return the part given by a tuple of integers and slices."""
        ranges, kept = ranges_of(key, self.shape)
        inner: list[slice] = []
        turn: list[slice] = []
        for axis, (r, n) in enumerate(zip(ranges, self.shape, strict=True)):
            is_flipped = axis in self.flipped and len(r) > 0
            inner.append(slice(n - 1 - r[-1], n - r[0], r.step) if is_flipped else slice(r.start, r.stop, r.step))
            turn.append(slice(None, None, -1) if is_flipped else slice(None))
        values = np.asarray(self.data[tuple(inner)])[tuple(turn)]
        return values.reshape([len(r) for r, is_kept in zip(ranges, kept, strict=True) if is_kept])


def oriented(data: LazyArray, axes: str, orientation: int) -> tuple[LazyArray, str]:
    """Return an array and its axes so that it is read as it is shown.

    Parameters
    ----------
    data : array-like
        Rows and columns as they are stored.
    axes : str
        One letter per axis.
    orientation : int
        Where the first row and the first column are, 1 to 8 as in TIFF and EXIF; 1 and other numbers change nothing.

    Returns
    -------
    (array-like, str)
        The array with reversed axes where needed; with Y and X exchanged for the orientations 5 to 8.
    """
    if orientation not in range(2, 9) or not {"Y", "X"} <= set(axes):
        return data, axes
    flipped = {axes.index("Y")} if orientation in (3, 4, 6, 7) else set()
    if orientation in (2, 3, 7, 8):
        flipped.add(axes.index("X"))
    turned = Flipped(data, frozenset(flipped)) if flipped else data
    return turned, axes.translate(str.maketrans("YX", "XY")) if orientation >= 5 else axes


@dataclass(frozen=True, eq=False)
class Recoloured:
    """Array whose pixels are converted when they are read, indexed with integers and slices.

    Attributes
    ----------
    data : array-like
        Array with shape, dtype and basic slices.
    convert : callable
        Converts blocks of pixels. With `sample_axis` their last axis is that of the samples; without it, each value is
        a pixel, and the result may have a new last axis of samples.
    dtype : dtype
        Type of a converted value.
    n_samples : int or None
        Samples of a converted pixel; None if it is a single value without an axis of samples.
    sample_axis : int or None
        Axis of the samples in `data`; None if there is none.
    """

    data: LazyArray
    convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
    dtype: np.dtype[Any]
    n_samples: int | None = None
    sample_axis: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        shape = tuple(self.data.shape)
        if self.n_samples is None:
            return shape
        if self.sample_axis is None:
            return (*shape, self.n_samples)
        return (*shape[: self.sample_axis], self.n_samples, *shape[self.sample_axis + 1 :])

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Return the converted part given by a tuple of integers and slices."""
        ranges, kept = ranges_of(key, self.shape)
        inner = [slice(r.start, r.stop, r.step) for r in ranges]
        if self.n_samples is None:
            values = self.convert(np.asarray(self.data[tuple(inner)]))
        elif self.sample_axis is None:
            values = self.convert(np.asarray(self.data[tuple(inner[:-1])]))[..., inner[-1]]
        else:
            samples, inner[self.sample_axis] = inner[self.sample_axis], slice(None)
            block = np.moveaxis(np.asarray(self.data[tuple(inner)]), self.sample_axis, -1)
            values = np.moveaxis(self.convert(block)[..., samples], -1, self.sample_axis)
        return values.reshape([len(r) for r, is_kept in zip(ranges, kept, strict=True) if is_kept])
