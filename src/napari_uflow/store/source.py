"""Image files that are read on demand: plain reads, and an error if the file changes between two of them."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ImageError

__all__ = ["SourceFile", "UncompressedPixels", "positions_of"]


class SourceFile:
    """File of an image, opened for each read.

    Memory maps are not used: reading one of a file that another program cuts short, or of a network drive that is lost,
    kills the process (SIGBUS).

    Parameters
    ----------
    path : path-like
        File.

    Raises
    ------
    OSError
        If the file does not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._state = _state(os.stat(path))

    @contextmanager
    def opened(self) -> Iterator[FileIO]:
        """Open the file to read from it with :meth:`fill`.

        Raises
        ------
        ImageError
            If the file vanished, cannot be read, or changed since the first access.
        """
        try:
            with open(self.path, "rb", buffering=0) as file:
                if _state(os.fstat(file.fileno())) != self._state:
                    raise ImageError(f"'{self.path}' has changed since it was opened; open it again")
                yield file
        except OSError as error:
            raise ImageError(
                f"'{self.path}' cannot be read ({error.strerror or error}); check the drive and open the file again"
            ) from error

    def fill(self, file: FileIO, offset: int, values: npt.NDArray[Any]) -> None:
        """Fill a contiguous array with the bytes from an offset on.

        Raises
        ------
        ImageError
            If the file ends before.
        """
        file.seek(offset)
        left = values.reshape(-1).view(np.uint8).data
        while left:
            n_bytes = file.readinto(left)
            if not n_bytes:
                raise ImageError(f"'{self.path}' cannot be read; the file ends before its pixels do, copy it again")
            left = left[n_bytes:]

    def read(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes of the file, fewer at its end; errors as in :meth:`opened`."""
        values = np.empty(max(0, min(n_bytes, self._state[0] - offset)), dtype=np.uint8)
        with self.opened() as file:
            self.fill(file, offset, values)
        return values.tobytes()


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class UncompressedPixels:
    """Pixels that lie in a file as in memory, indexed with integers and slices (steps above 0) like a numpy array.

    Parameters
    ----------
    path : path-like
        File.
    offset : int
        First byte of the pixels.
    shape : tuple of int
        Shape of the array.
    dtype : dtype
        Type of its values, with their byte order.

    Raises
    ------
    ImageError
        If the file ends before the pixels do.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.shape, self.dtype = tuple(int(n) for n in shape), np.dtype(dtype)
        self._offset = offset
        self._file = SourceFile(path)
        if offset + self.dtype.itemsize * math.prod(self.shape) > path.stat().st_size:
            raise ImageError(f"'{path}' cannot be read; the file ends before its pixels do, copy it again")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all pixels as a numpy array."""
        if copy is False:
            raise ValueError("a file cannot become an array without a copy")
        values = self[()]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Return the part given by a tuple of integers and slices."""
        ranges, kept = positions_of(key, self.shape)
        values = np.empty(tuple(len(r) for r in ranges), dtype=self.dtype)
        if values.size:
            self._fill(values, ranges)
        return values.reshape([len(r) for r, is_kept in zip(ranges, kept, strict=True) if is_kept])

    def _fill(self, values: npt.NDArray[Any], ranges: list[range]) -> None:
        """Read in runs: what follows the last axis that is not wanted as a whole lies together in the file."""
        partial = [i for i, r in enumerate(ranges) if r != range(self.shape[i])]
        axis = partial[-1] if partial else 0
        inner = self.shape[axis + 1 :]
        size = self.dtype.itemsize
        strides = [size * math.prod(self.shape[i + 1 :]) for i in range(self.ndim)]
        wanted = ranges[axis]
        run = np.empty((wanted[-1] - wanted[0] + 1, *inner), dtype=self.dtype)
        with self._file.opened() as file:
            for place in product(*(range(len(r)) for r in ranges[:axis])):
                offset = self._offset + wanted[0] * strides[axis]
                offset += sum(r[i] * s for i, r, s in zip(place, ranges, strides, strict=False))
                if wanted.step == 1:
                    self._file.fill(file, offset, values[place])
                else:
                    self._file.fill(file, offset, run)
                    values[place] = run[:: wanted.step]


def positions_of(key: Any, shape: tuple[int, ...]) -> tuple[list[range], list[bool]]:
    """Return the positions that an index means on each axis, and True for axes that are kept.

    Parameters
    ----------
    key : int, slice, Ellipsis, or tuple of them
        Index; an axis indexed by an integer is not kept.
    shape : tuple of int
        Shape of the array.

    Raises
    ------
    IndexError
        If there are too many indices, one is out of range, or the step of a slice is not above 0.
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
