"""Find and read images: TIFF, OME-Zarr, PNG, JPEG, BMP."""

import glob
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.store.omezarr import is_zarr, read_zarr
from napari_uflow.store.tiff import _DAMAGE, TIFF_SUFFIXES, _stem, read_tiff

__all__ = ["IMAGE_SUFFIXES", "find_images", "read_planes"]

IMAGE_SUFFIXES = TIFF_SUFFIXES | {".bmp", ".jpeg", ".jpg", ".png"}


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files of images that are meant by paths.

    Parameters
    ----------
    paths : path-like or iterable of them
        Files; folders, of which all files with the ending of an image are taken, but not those of folders inside; and
        patterns with ``*``, ``?`` or ``[]``. A folder that zarr wrote is one image, named or found.

    Returns
    -------
    list of Path
        Each file once. The files of a folder or a pattern are sorted by name; hidden files are left out.

    Raises
    ------
    ImageError
        If one of the paths means no file.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        place = Path(path)
        if is_zarr(place):
            files = [_named(place)]
        elif place.is_dir():
            files = sorted(p for p in place.iterdir() if _is_image(p))
            if not files:
                endings = ", ".join(sorted(IMAGE_SUFFIXES | {".zarr"}))
                raise ImageError(f"the folder '{place}' has no images ({endings})")
        elif place.is_file():
            files = [place]
        else:
            files = sorted(p for p in map(Path, glob.glob(str(place))) if _is_image(p))
            if not files:
                raise ImageError(f"no image was found at '{place}'; give a file, a folder or a pattern like '*.tif'")
        found += files
    if not found:
        raise ImageError("no image was named; give a file, a folder or a pattern like '*.tif'")
    return list(dict.fromkeys(found))


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return is_zarr(path) or (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _named(path: Path) -> Path:
    """Return the path with a name, by which results are called, where it is "." or ".."."""
    return path if path.name not in ("", "..") else path.resolve()


def read_planes(
    path: str | os.PathLike[str],
    *,
    channels: int | str | Sequence[int | str] | None = None,
    axes: str | None = None,
) -> list[Plane]:
    """Open a file and return its planes; the pixels of TIFF files and of zarr are read when they are asked for.

    Uncompressed TIFF files are mapped into memory, of compressed ones only the strips or tiles that are needed are
    decoded, and of zarr only the chunks. PNG, JPEG and BMP files are read whole. Of a slide or an OME-Zarr image with
    several sizes the largest is taken; of an OME file with several images, all.

    Parameters
    ----------
    path : path-like
        Name of the file, or of a folder that zarr wrote: OME-Zarr, or one array.
    channels : int, str, sequence of them, or None
        As in `planes_of`; the names are those that OME and ImageJ files give.
    axes : str or None
        One letter for each axis, in place of what the file says.

    Returns
    -------
    list of Plane
        Named after the file without its ending. The pixel size is in `unit`: "um" for every way to write it. A
        resolution in dots per inch that screens and printers have is not taken for a calibration.

    Raises
    ------
    ImageError
        If there is no such file, it cannot be read, or it does not fit `channels` or `axes`; and for a folder of zarr,
        if the package zarr is missing.
    """
    place = Path(path)
    if is_zarr(place):
        return read_zarr(place, name=_stem(_named(place)), channels=channels, axes=axes)
    if place.is_dir():
        raise ImageError(f"'{place}' is a folder; give a file in it")
    if not place.is_file():
        raise ImageError(f"there is no file '{place}'")
    if place.stat().st_size == 0:
        raise ImageError(f"the file '{place}' is empty")
    if place.suffix.lower() in TIFF_SUFFIXES:
        return read_tiff(place, channels, axes)
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return _read_other(place, channels, axes)
    raise ImageError(f"'{place}' is no image that can be read; save it as TIFF or PNG")


def _read_other(path: Path, channels: int | str | Sequence[int | str] | None, axes: str | None) -> list[Plane]:
    try:
        with warnings.catch_warnings():
            # An image of 100 million pixels is no attack here; twice as many is an error all the same.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                colours = {"P": "RGB", "PA": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LA": "L", "La": "L"}
                data = np.asarray(image.convert(colours[image.mode]) if image.mode in colours else image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"'{path}' is too large to be read whole; save it as TIFF, which is read in parts") from error
    except (*_DAMAGE, SyntaxError) as error:
        raise ImageError(f"'{path}' cannot be read; the file is damaged or not what its ending says") from error
    if axes is None:
        axes = "YX" if data.ndim == 2 else "YXS"
    return planes_of(data, axes, channels=channels, name=path.stem, source=str(path))
