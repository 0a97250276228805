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
from napari_uflow.store.files import stem_of
from napari_uflow.store.omezarr import is_zarr, read_zarr
from napari_uflow.store.tiff import READ_ERRORS, TIFF_SUFFIXES, read_tiff

__all__ = ["IMAGE_SUFFIXES", "find_images", "read_planes"]

IMAGE_SUFFIXES = TIFF_SUFFIXES | {".bmp", ".jpeg", ".jpg", ".png"}


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Find the image files of a list of files, folders and patterns.

    Parameters
    ----------
    paths : path-like or iterable of them
        Files; folders, whose image files are found but not those of subfolders; and patterns with ``*``, ``?`` or
        ``[]``. A zarr folder is one image.

    Returns
    -------
    list of Path
        Each file once. The files of a folder or a pattern are sorted by name; hidden files are ignored.

    Raises
    ------
    ImageError
        If a path matches no file.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        place = Path(path)
        if is_zarr(place):
            files = [_named(place)]
        elif os.path.isdir(place):  # False for a name that is too long, too
            files = sorted(p for p in place.iterdir() if _is_image(p))
            if not files:
                endings = ", ".join(sorted(IMAGE_SUFFIXES | {".zarr"}))
                raise ImageError(
                    f"the folder '{place}' contains no images ({endings}); give a folder of images, or a pattern"
                )
        elif os.path.isfile(place):
            files = [place]
        else:
            files = sorted(p for p in map(Path, glob.glob(str(place))) if _is_image(p))
            if not files:
                raise ImageError(f"no image found at '{place}'; give a file, a folder or a pattern such as '*.tif'")
        found += files
    if not found:
        raise ImageError("no image given; give a file, a folder or a pattern such as '*.tif'")
    return list(dict.fromkeys(found))


def _is_image(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return is_zarr(path) or (path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _named(path: Path) -> Path:
    """Return the path; "." and ".." as an absolute path, whose name serves for the results."""
    return path if path.name not in ("", "..") else path.resolve()


def read_planes(
    path: str | os.PathLike[str],
    *,
    channels: int | str | Sequence[int | str] | None = None,
    axes: str | None = None,
) -> list[Plane]:
    """Open a file and return its planes; pixels of TIFF files and zarr folders are read on demand.

    Uncompressed TIFF files are mapped into memory; of compressed ones only the required strips or tiles are decoded, of
    zarr only the chunks. PNG, JPEG and BMP files are read completely. A slide or an OME-Zarr image with several sizes
    is opened at the largest one; an OME file with several images gives all of them.

    Parameters
    ----------
    path : path-like
        File, or zarr folder: OME-Zarr or a single array.
    channels : int, str, sequence of them, or None
        As in :func:`~napari_uflow.planes_of`; names are those of OME and ImageJ files.
    axes : str or None
        One letter per axis, in place of the axes that the file gives.

    Returns
    -------
    list of Plane
        Planes named after the file without its ending. `unit` is "um" for all spellings of micrometre. A resolution in
        dots per inch that is usual for screens and printers is not used as a calibration.

    Raises
    ------
    ImageError
        If the file does not exist, cannot be read, or does not fit `channels` or `axes`; for a zarr folder, if the
        package zarr is missing.
    """
    place = Path(path)
    if is_zarr(place):
        return read_zarr(place, name=stem_of(_named(place)), channels=channels, axes=axes)
    if os.path.isdir(place):
        raise ImageError(f"'{place}' is a folder; give a file in it")
    if not os.path.isfile(place):
        raise ImageError(f"the file '{place}' does not exist")
    if place.stat().st_size == 0:
        raise ImageError(f"the file '{place}' is empty")
    if place.suffix.lower() in TIFF_SUFFIXES:
        return read_tiff(place, channels, axes)
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return _read_other(place, channels, axes)
    raise ImageError(f"'{place}' has no readable image format; save it as TIFF or PNG")


def _read_other(path: Path, channels: int | str | Sequence[int | str] | None, axes: str | None) -> list[Plane]:
    try:
        with warnings.catch_warnings():
            # Images of up to 200 million pixels are read without a warning; larger ones are an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                colours = {"P": "RGB", "PA": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "LA": "L", "La": "L"}
                data = np.asarray(image.convert(colours[image.mode]) if image.mode in colours else image)
    except Image.DecompressionBombError as error:
        raise ImageError(f"'{path}' is too large for this format; save it as TIFF, which is read in parts") from error
    except (*READ_ERRORS, SyntaxError) as error:
        raise ImageError(
            f"'{path}' cannot be read; the file is damaged or of another format than its ending"
        ) from error
    if axes is None:
        axes = "YX" if data.ndim == 2 else "YXS"
    return planes_of(data, axes, channels=channels, name=path.stem, source=str(path))
