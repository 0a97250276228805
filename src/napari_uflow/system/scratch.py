"""Disk-backed arrays for maps that do not fit in memory; each file is deleted with its array."""

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

__all__ = ["LARGE", "allocate_map", "allocate_on_disk", "is_large", "release_pages", "strips"]

LARGE = 2**27
"""Bytes from which a map is disk-backed: 128 MB, a map of 32-bit numbers of 5,800 x 5,800 pixels."""

_STRIP_PIXELS = 2**22


def is_large(shape: tuple[int, ...], dtype: DTypeLike) -> bool:
    """Return True if an array of this shape and type is disk-backed."""
    return _n_bytes(shape, dtype) >= LARGE


def _n_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize


def allocate_map(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an uninitialised array; one of `LARGE` bytes or more is disk-backed.

    The file is in the folder for temporary files (environment variable TMPDIR), has no name, and is deleted with the
    array.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : dtype
        Type of its values.

    Returns
    -------
    ndarray or memmap
        Array with undefined values.

    Raises
    ------
    UFlowError
        If the disk has not enough free space.
    """
    if not is_large(shape, dtype):
        return np.empty(shape, dtype)
    return allocate_on_disk(shape, dtype, what="a map")


def allocate_on_disk(shape: tuple[int, ...], dtype: DTypeLike, *, what: str) -> NDArray[Any]:
    """Return an uninitialised disk-backed array, as :func:`allocate_map` does for large ones.

    Parameters
    ----------
    shape, dtype
        As for :func:`allocate_map`.
    what : str
        Its content, for the message of an error: "a map".

    Raises
    ------
    UFlowError
        If the disk has not enough free space.
    """
    n_bytes = _n_bytes(shape, dtype)
    try:
        with tempfile.TemporaryFile(prefix="napari-uflow-") as file:
            _reserve(file.fileno(), n_bytes)
            return np.memmap(file, dtype=dtype, mode="r+", shape=shape)
    except OSError as error:
        raise UFlowError(
            f"not enough disk space for {what} of {n_bytes / 1e6:,.1f} MB in '{_folder()}' "
            f"({error.strerror or error}); set the environment variable TMPDIR to another folder"
        ) from error


def _folder() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:  # every candidate is full or cannot be written
        return os.environ.get("TMPDIR", "the folder for temporary files")


def _reserve(file: int, n_bytes: int) -> None:
    """Reserve disk space up front: writing to a memory map on a full disk kills the process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file, 0, n_bytes)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not supported by some file systems
                raise
    if shutil.disk_usage(tempfile.gettempdir()).free < n_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.truncate(file, n_bytes)


def release_pages(*arrays: object) -> None:
    """Release the resident pages of memory-mapped arrays or views of them; they are read again on access.

    Other arrays are not affected, nor are memory maps whose changes exist in memory only (mode "c").
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
    """Yield first and stop row of strips of about 4 million pixels, in which large images are processed.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of the image.
    align : int
        Divisor of the first row of every strip.
    """
    height = max(1, _STRIP_PIXELS // max(1, shape[1]) // align) * align
    for row in range(0, shape[0], height):
        yield row, min(row + height, shape[0])
