"""Reading files of others: what decoders raise, how much is read at most, and where paths may lead."""

import lzma
import os
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path

from napari_uflow.errors import ImageError
from napari_uflow.wording import without_name

__all__ = [
    "DECODER_ERRORS",
    "MAX_BLOCK_BYTES",
    "MAX_PLANES",
    "MAX_SIDE",
    "check_block",
    "check_planes",
    "check_sides",
    "is_inside",
    "unreadable",
]

DECODER_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,  # also those of imagecodecs
    EOFError,
    MemoryError,  # a size that a damaged file declares
    SyntaxError,  # of Pillow and of XML parsers
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""Exceptions that decoders raise for a file that is damaged or of another format than its name says."""

MAX_PLANES = 100_000
"""Most planes of a file; metadata of a few bytes can declare any number of them."""

MAX_SIDE = 2**31
"""Longest side of an image in pixels; positions in a longer one do not fit into the numbers that count them."""

MAX_BLOCK_BYTES = 2**29
"""Most bytes of pixels that are decoded at once: a strip, a tile, a chunk, a PNG or JPEG image."""


def unreadable(path: Path, error: BaseException, reason: str = "the file is damaged, copy it again") -> ImageError:
    """Return the error to raise for a file that cannot be opened or decoded.

    Parameters
    ----------
    path : Path
        File that the message names.
    error : exception
        What the operating system or a decoder raised; a missing permission is not called damage.
    reason : str
        What is wrong with a file that was opened, and the remedy.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(
            f"'{path}' cannot be read ({os.strerror(error.errno)}); check that it is there and that you may read it"
        )
    return ImageError(f"'{path}' cannot be read; {reason}{_detail(error, path)}")


def _detail(error: BaseException, path: Path, n_most: int = 200) -> str:
    """Return what a decoder said, in parentheses; "" for a single word, such as the index of an IndexError."""
    text = without_name(str(error), str(path))
    if " " not in text:
        return ""
    return f" ({text if len(text) <= n_most else text[:n_most] + '...'})"


def check_planes(n_planes: int, path: Path) -> None:
    """Raise an `ImageError` if a file declares more than `MAX_PLANES` planes."""
    if n_planes > MAX_PLANES:
        raise ImageError(
            f"'{path}' declares {n_planes:,} planes, more than {MAX_PLANES:,}; it is damaged, or must be divided into "
            "several files"
        )


def check_sides(shape: Iterable[int], path: Path) -> None:
    """Raise an `ImageError` if a file declares a side of more than `MAX_SIDE` pixels."""
    longest = max(shape, default=0)
    if longest > MAX_SIDE:
        raise ImageError(f"'{path}' declares a side of {longest:,} pixels, more than {MAX_SIDE:,}; it is damaged")


def check_block(n_bytes: int, path: Path) -> None:
    """Raise an `ImageError` if more than `MAX_BLOCK_BYTES` have to be decoded at once."""
    if n_bytes > MAX_BLOCK_BYTES:
        raise ImageError(
            f"'{path}' has blocks of {n_bytes / 1e9:.3g} GB of pixels, each decoded at once; save the image in tiles "
            f"or chunks of {MAX_BLOCK_BYTES / 1e9:.2g} GB at most, for example as a tiled TIFF"
        )


def is_inside(path: Path, *folders: Path) -> bool:
    """Return True if a path lies in one of the folders after all symbolic links; False for an impossible path."""
    try:
        place = path.resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a null byte
        return False
    return any(place.is_relative_to(folder.resolve()) for folder in folders)
