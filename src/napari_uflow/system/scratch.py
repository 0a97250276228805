"""Maps of large images, in files of their own that go with them: they need not fit the memory."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from napari_uflow.errors import UFlowError

__all__ = ["LARGE", "is_large", "release_pages", "allocate_map", "strips"]

LARGE = 2**27
"""Bytes from which a map is kept in a file: 128 MB, a map of 32-bit numbers of 5,800 x 5,800 pixels."""

_STRIP_PIXELS = 2**22


def is_large(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
    """Tell whether an array is kept in a file."""
    return _n_bytes(shape, dtype) >= LARGE


def _n_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def allocate_map(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an array to be filled, whose values are undefined; one of `LARGE` bytes or more lies in a file.

    The file is in the folder for temporary files (environment variable TMPDIR), has no name, and is gone when the array
    is.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of its values.

    Returns
    -------
    ndarray or memmap

    Raises
    ------
    UFlowError
        If there is no room on the disk.
    """
    if not is_large(shape, dtype):
        return np.empty(shape, dtype)
    n_bytes = _n_bytes(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="napari-uflow-") as file:
            _reserve(file.fileno(), n_bytes)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise UFlowError(
            f"there is no room for a map of {n_bytes / 1e9:.1f} GB in '{tempfile.gettempdir()}' "
            f"({error.strerror or error}); name another folder in the environment variable TMPDIR"
        ) from error


def _reserve(file: int, n_bytes: int) -> None:
    """Give a file its size and its room: writing to a mapped file for which there is none ends the program."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, n_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # which some file systems lack
                raise
    if shutil.disk_usage(tempfile.gettempdir()).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(file, n_bytes)


def release_pages(*arrays: object) -> None:
    """Give the memory back that arrays in files, or parts of such arrays, take; it is read again where it is needed.

    Other arrays stay as they are, and so does one whose changes are in memory only (mode "c" of a memmap).
    """
    for array in arrays:
        part = array
        while isinstance(part, np.ndarray) and not isinstance(part, np.memmap):
            part = part.base
        mapped = getattr(part, "_mmap", None)
        is_shared = getattr(part, "mode", "c") != "c"
        if is_shared and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def strips(shape: tuple[int, int], align: int = 1) -> Iterator[tuple[int, int]]:
    """Yield first and stop row of the strips in which a large image is worked on, of some 4 million pixels each.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    align : int
        What the first rows are multiples of.
    """
    height = max(1, _STRIP_PIXELS // max(1, shape[1]) // align) * align
    for row in range(0, shape[0], height):
        yield row, min(row + height, shape[0])
