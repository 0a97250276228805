"""Uncompressed pixels of a file as a lazy array; the file is open only while it is read."""

import math
import operator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ImageError
from napari_uflow.store.reading import unreadable
from napari_uflow.store.source import SourceFile

__all__ = ["RawPixels", "ranges_of"]


def ranges_of(key: Any, shape: tuple[int, ...]) -> tuple[list[range], list[bool]]:
    """Return the positions of a key on each axis, and True for axes that are kept (not indexed by an integer).

    Parameters
    ----------
    key : int, slice, Ellipsis, or tuple of them
        Key of an array of this shape, as numpy's; the steps of slices are above 0.
    shape : tuple of int
        Shape of the array.

    Raises
    ------
    IndexError
        If the key does not fit the shape.
    """
    keys = key if isinstance(key, tuple) else (key,)
    if Ellipsis in keys:
        i = keys.index(Ellipsis)
        keys = (*keys[:i], *[slice(None)] * (len(shape) - len(keys) + 1), *keys[i + 1 :])
    if len(keys) > len(shape):
        raise IndexError(f"{len(keys)} indices for {len(shape)} axes")
    ranges, kept = [], []
    for k, n in zip((*keys, *[slice(None)] * (len(shape) - len(keys))), shape, strict=True):
        if isinstance(k, slice):
            ranges.append(range(*k.indices(n)))
            if ranges[-1].step < 1:
                raise IndexError(f"the step of a slice must be above 0, not {k.step}")
        else:
            i = operator.index(k)
            if not -n <= i < n:
                raise IndexError(f"index {i} is out of range for an axis of {n}")
            ranges.append(range(i % n, i % n + 1))
        kept.append(isinstance(k, slice))
    return ranges, kept


class RawPixels:
    """Array that lies in a file as numpy would have it in memory, indexed with integers and slices (steps above 0).

    The pixels are read and not mapped: a map keeps a file descriptor for every file, and a file that is cut short while
    it is mapped ends the process.

    Parameters
    ----------
    path : Path
        File.
    dtype : dtype
        Type of a pixel, with its byte order.
    shape : tuple of int
        Shape of the array, in the order of C.
    offset : int
        Position of the first pixel in the file, in bytes.
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...], offset: int) -> None:
        self.path, self.dtype, self.shape, self._offset = path, np.dtype(dtype), shape, offset
        self._file = SourceFile(path)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Read the part given by a tuple of integers and slices into a new array."""
        ranges, kept = ranges_of(key, self.shape)
        values = np.empty(tuple(len(r) for r in ranges), dtype=self.dtype)
        if values.size:
            self._fill(values, ranges)
        return values.reshape([len(r) for r, is_kept in zip(ranges, kept, strict=True) if is_kept])

    def _fill(self, values: npt.NDArray[Any], ranges: list[range]) -> None:
        # The last axis that is not read as a whole gives the longest runs of adjacent pixels.
        partial = [axis for axis, (r, n) in enumerate(zip(ranges, self.shape, strict=True)) if len(r) < n]
        axis = partial[-1] if partial else 0
        n_each = math.prod(self.shape[axis + 1 :])
        inner = ranges[axis]
        run = np.empty((inner[-1] - inner[0] + 1, *self.shape[axis + 1 :]), dtype=self.dtype)
        try:
            with self._file.opened() as file:
                for place in product(*(range(len(r)) for r in ranges[:axis])):
                    first = 0
                    for i, r, n in zip(place, ranges, self.shape, strict=False):
                        first = first * n + r[i]
                    first = (first * self.shape[axis] + inner[0]) * n_each
                    file.seek(self._offset + first * self.dtype.itemsize)
                    _read_into(file, run.reshape(-1).view(np.uint8))
                    values[place] = run[:: inner.step]
        except EOFError as error:
            raise ImageError(f"'{self.path}' cannot be read; the file ends before its pixels do") from error
        except OSError as error:
            raise unreadable(self.path, error) from error


def _read_into(file: Any, buffer: npt.NDArray[np.uint8]) -> None:
    done = 0
    while done < len(buffer):
        n = file.readinto(buffer[done:])
        if not n:
            raise EOFError
        done += n
