"""Read PNG, JPEG and BMP files: opened by their header, decoded when pixels are needed."""

import math
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import Image

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import LazyArray
from napari_uflow.store.decoded import DECODED
from napari_uflow.store.raw import ranges_of
from napari_uflow.store.reading import DECODER_ERRORS, MAX_BLOCK_BYTES, unreadable
from napari_uflow.store.views import oriented

__all__ = ["PICTURE_SUFFIXES", "open_picture"]

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png"})

_DAMAGED = "the file is damaged or of another format than its ending"

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PNG_SAMPLES = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}
"""Samples of a pixel without alpha, by the colour type of the header; of a palette those of its colours."""

_MOST_CHUNKS = 500_000
"""Chunks of a PNG file; encoders make one for 8 kB or more of compressed pixels."""

_OTHER_FORMATS = ("BMP", "JPEG")
"""Formats that Pillow may open; some others run programs. JPEG includes MPO, of which the first image is read."""

_GREY_MODES = frozenset({"1", "L", "LA", "La"})

_ORIENTATION = 0x112


def open_picture(path: Path) -> tuple[LazyArray, str]:
    """Open a PNG, JPEG or BMP file.

    PNG files are read with all their bits, 8 or 16; alpha is left out, palettes and CMYK become RGB. The orientation in
    the EXIF data is obeyed. The values are those of the file: no gamma or colour profile is applied.

    Parameters
    ----------
    path : Path
        File, recognised by its content.

    Returns
    -------
    (array-like, str)
        Lazy array and its axes. The whole image is decoded at the first read and kept with those used last.

    Raises
    ------
    ImageError
        If the file cannot be opened, is of another format, an animation, or too large to be decoded at once. Reading
        pixels raises it if they are damaged.
    """
    try:
        with open(path, "rb") as file:
            is_png = file.read(len(_PNG_SIGNATURE)) == _PNG_SIGNATURE
            shape, dtype, orientation = _png_header(file, path) if is_png else _other_header(file)
            n_bytes: float = max(math.prod(shape) * dtype.itemsize, os.fstat(file.fileno()).st_size)
    except ImageError:
        raise
    except Image.DecompressionBombError:
        n_bytes = math.inf
    except DECODER_ERRORS as error:
        raise unreadable(path, error, _DAMAGED) from error
    if n_bytes > MAX_BLOCK_BYTES:
        raise ImageError(f"'{path}' is too large for this format; save it as TIFF, which is read in parts")
    return oriented(_Picture(path, shape, dtype, is_png=is_png), "YX" if len(shape) == 2 else "YXS", orientation)


class _Picture:
    """Pixels of a PNG, JPEG or BMP file."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], *, is_png: bool) -> None:
        self.path, self.shape, self.dtype, self._is_png = path, shape, dtype, is_png
        self._owner = DECODED.new_owner(self)

    def __getitem__(self, key: Any, /) -> npt.NDArray[Any]:
        """Return the part given by a tuple of integers and slices."""
        ranges_of(key, self.shape)
        values: npt.NDArray[Any] = DECODED.get(self._owner, None, self._decoded)[key]
        return values

    def _decoded(self) -> npt.NDArray[Any]:
        try:
            values = _png_pixels(self.path) if self._is_png else _other_pixels(self.path)
            values = values.reshape(*values.shape[:2], -1)
            values = values[..., : self.shape[2] if len(self.shape) == 3 else 1]
            values = np.ascontiguousarray(values).reshape(self.shape)
        except DECODER_ERRORS as error:
            raise unreadable(self.path, error, _DAMAGED) from error
        return values.astype(self.dtype, copy=False)


_Header = tuple[tuple[int, ...], np.dtype[Any], int]
"""Shape without alpha, type of a value, and orientation."""


def _png_header(file: BinaryIO, path: Path) -> _Header:
    header, n_frames, orientation = None, 1, 1
    for kind, size in _png_chunks(file):
        if kind == b"IHDR":
            header = struct.unpack(">IIBB", file.read(10))
        elif kind == b"acTL":
            (n_frames,) = struct.unpack(">I", file.read(4))
        elif kind == b"eXIf":
            orientation = _orientation(file.read(min(size, 2**20)))
    if header is None or 0 in header[:2] or header[2] not in (1, 2, 4, 8, 16) or header[3] not in _PNG_SAMPLES:
        raise ValueError("no valid header")
    if n_frames > 1:
        raise ImageError(f"'{path}' is an animation of {n_frames} frames; save the frames as a TIFF stack")
    width, height, n_bits, colour = header
    n_samples = _PNG_SAMPLES[colour]
    shape = (height, width) if n_samples == 1 else (height, width, n_samples)
    return shape, np.dtype(np.uint16 if n_bits == 16 else np.uint8), orientation


def _png_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield kind and size of each chunk, with the file at the chunk's data."""
    place = len(_PNG_SIGNATURE)
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head)
        yield kind, size
        if kind == b"IEND":
            return
        place += size + 12
    raise ValueError("too many chunks")


def _orientation(exif: bytes) -> int:
    values = Image.Exif()
    try:
        values.load(exif)
    except DECODER_ERRORS:  # the pixels are readable without it
        return 1
    return _number_of(values)


def _number_of(exif: Image.Exif) -> int:
    orientation = exif.get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _png_pixels(path: Path) -> npt.NDArray[Any]:
    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


def _other_header(file: BinaryIO) -> _Header:
    with _opened(file) as image:
        width, height = image.size
        shape = (height, width) if image.mode in _GREY_MODES else (height, width, 3)
        return shape, np.dtype(np.uint8), _exif_orientation(image)


def _exif_orientation(image: Image.Image) -> int:
    try:
        return _number_of(image.getexif())
    except DECODER_ERRORS:  # the pixels are readable without it
        return 1


def _other_pixels(path: Path) -> npt.NDArray[Any]:
    with open(path, "rb") as file, _opened(file) as image:
        return np.asarray(image.convert("L" if image.mode in _GREY_MODES else "RGB"))


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes, which are checked here, and of damaged EXIF data
        with Image.open(file, formats=_OTHER_FORMATS) as image:
            yield image
