"""TIFF series as a lazy array: only the required strips or tiles are decoded."""

import math
import operator
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile

from napari_uflow.errors import ImageError
from napari_uflow.store.codestreams import declared_pixels
from napari_uflow.store.decoded import DECODED
from napari_uflow.store.raw import ranges_of
from napari_uflow.store.reading import DECODER_ERRORS, check_block, unreadable
from napari_uflow.store.source import SourceFile

__all__ = ["TiffSegments"]

_ROOM = 2**16
"""Pixels that a compressed strip or tile may have beside those of the image."""


class TiffSegments:
    """Series of a TIFF file, indexed with integers and slices (steps above 0) like a numpy array.

    The positions of the segments are read once; no file stays open, and several threads may read.

    Parameters
    ----------
    series : tifffile.TiffPageSeries
        Series of an open file.

    Raises
    ------
    ImageError
        If the pages do not fit the shape of the series.
    """

    def __init__(self, series: tifffile.TiffPageSeries) -> None:
        page = series.keyframe
        self.shape: tuple[int, ...] = tuple(int(n) for n in series.shape)
        self.dtype = np.dtype(series.dtype)
        n_page_axes = len(page.shape)
        self._n_stack_axes = len(self.shape) - n_page_axes
        n_pages = math.prod(self.shape[: self._n_stack_axes]) if self._n_stack_axes >= 0 else -1
        if n_pages != len(series.pages) or self.shape[self._n_stack_axes :] != tuple(page.shape):
            raise ImageError(f"'{series.parent.filename}' has pages that do not fit its shape {self.shape}")
        # A damaged file may have several numbers for one.
        block = [operator.index(n) for n in page.chunks]
        self._n_block_values = math.prod(block)
        check_block(self._n_block_values * self.dtype.itemsize, Path(series.parent.filehandle.path))
        self._chunked = (1,) * (n_page_axes - len(page.chunked)) + tuple(page.chunked)
        chunks = (1,) * (n_page_axes - len(block)) + tuple(block)
        self._chunks = tuple(min(c, n) for c, n in zip(chunks, page.shape, strict=True))
        if any(-(-n // c) != k for n, c, k in zip(page.shape, self._chunks, self._chunked, strict=True)):
            raise ImageError(f"'{series.parent.filename}' is damaged: its blocks do not cover the image; copy it again")
        self._image_size = (page.imagedepth, page.imagelength, page.imagewidth)
        self._nodata = page.nodata
        self._decode = page.decode
        self._is_jpeg = page.compression in (6, 7, 34892, 33007)
        self._jpeg_header = page.jpegheader if self._is_jpeg else None
        # (file, offsets, byte counts, JPEG tables) of each page; None for a missing page.
        paths = {p.parent.filehandle.path for p in series.pages if p is not None}
        files = {path: SourceFile(path) for path in paths}
        self._pages = [
            None
            if p is None
            else (
                files[p.parent.filehandle.path],
                tuple(p.dataoffsets),
                tuple(p.databytecounts),
                p.jpegtables if self._is_jpeg else None,
            )
            for p in series.pages
        ]
        self._owner = DECODED.new_owner(self)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the whole series as a numpy array."""
        if copy is False:
            raise ValueError("a TIFF file cannot become an array without a copy")
        values = self[()]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Return the part of the series given by a tuple of integers and slices."""
        ranges, kept = ranges_of(key, self.shape)
        stack, inside = ranges[: self._n_stack_axes], ranges[self._n_stack_axes :]
        values = np.zeros(tuple(len(r) for r in ranges), dtype=self.dtype)
        for place in product(*(range(len(r)) for r in stack)):
            page = 0
            for i, r, n in zip(place, stack, self.shape, strict=False):
                page = page * n + r[i]
            self._read_page(page, inside, values[place])
        return values.reshape([len(r) for r, is_kept in zip(ranges, kept, strict=True) if is_kept])

    def _read_page(self, page: int, wanted: list[range], values: npt.NDArray[Any]) -> None:
        """Fill `values` with the wanted positions of one page."""
        if not all(wanted):
            return
        touched = [range(r[0] // c, r[-1] // c + 1) for r, c in zip(wanted, self._chunks, strict=True)]
        for chunk in product(*touched):
            segment = self._segment(page, chunk)
            source, target = [], []
            for r, i, c, n in zip(wanted, chunk, self._chunks, segment.shape, strict=True):
                first = max(-(-(i * c - r.start) // r.step), 0)
                last = min(-(-(i * c + n - r.start) // r.step), len(r))
                target.append(slice(first, last))
                start = r.start + first * r.step - i * c
                source.append(slice(start, start + max(last - first, 0) * r.step, r.step))
                if last <= first:
                    break
            else:
                values[tuple(target)] = segment[tuple(source)]

    def _segment(self, page: int, chunk: tuple[int, ...]) -> npt.NDArray[Any]:
        """Return one strip or tile, cut at the end of the page, with the axes of the page."""
        number = int(np.ravel_multi_index(chunk, self._chunked))
        return DECODED.get(self._owner, (page, number), lambda: self._decoded(page, number, chunk))

    def _decoded(self, page: int, number: int, chunk: tuple[int, ...]) -> npt.NDArray[Any]:
        shape = tuple(
            min(c, n - i * c) for i, c, n in zip(chunk, self._chunks, self.shape[self._n_stack_axes :], strict=True)
        )
        place = self._pages[page]
        if place is None:
            return np.full(shape, self._nodata, dtype=self.dtype)
        source, offsets, byte_counts, tables = place
        jpeg = {"jpegtables": tables, "jpegheader": self._jpeg_header} if self._is_jpeg else {}
        try:
            if not byte_counts[number]:
                return np.full(shape, self._nodata, dtype=self.dtype)
            with source.opened() as file:
                file.seek(offsets[number])
                n_left = max(os.fstat(file.fileno()).st_size - offsets[number], 0)
                encoded = file.read(min(byte_counts[number], n_left))
            self._check_size(encoded, source.path)
            decoded, (_, d, h, w, _), _ = self._decode(encoded, number, **jpeg)
            depth, length, width = self._image_size
            segment: npt.NDArray[Any] = decoded[: depth - d, : length - h, : width - w].reshape(shape)
        except ImageError:
            raise
        except DECODER_ERRORS as error:
            raise unreadable(source.path, error) from error
        return segment

    def _check_size(self, encoded: bytes, path: Path) -> None:
        """Refuse a compressed image that is much larger than its strip or tile; in NDPI files all have one header."""
        n_pixels = 0 if self._jpeg_header else declared_pixels(encoded)
        if n_pixels > 2 * self._n_block_values + _ROOM:
            raise ImageError(
                f"'{path}' is damaged: a block declares {n_pixels:,} pixels, more than it has; copy it again"
            )
