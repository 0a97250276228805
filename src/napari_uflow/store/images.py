"""Find and read images: TIFF, OME-Zarr, PNG, JPEG, BMP."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import Plane, planes_of
from napari_uflow.store.files import stem_of
from napari_uflow.store.omezarr import is_zarr, read_zarr
from napari_uflow.store.pictures import PICTURE_SUFFIXES, open_picture
from napari_uflow.store.reading import unreadable
from napari_uflow.store.series import chosen_series
from napari_uflow.store.tiff import TIFF_SUFFIXES, read_tiff

__all__ = ["IMAGE_SUFFIXES", "find_images", "read_planes"]

IMAGE_SUFFIXES = TIFF_SUFFIXES | PICTURE_SUFFIXES


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
        If a path is empty or matches no file, or a folder cannot be listed.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else list(paths):
        if not os.fspath(path):  # of a variable that is not set; a path of it would be the current folder
            raise ImageError("the name of an image is empty; give a file, a folder or a pattern such as '*.tif'")
        try:
            found += _files_at(Path(path))
        except OSError as error:  # a folder that may not be listed, a name that is too long
            raise unreadable(Path(path), error) from error
    if not found:
        raise ImageError("no image given; give a file, a folder or a pattern such as '*.tif'")
    return list(dict.fromkeys(found))


def _files_at(place: Path) -> list[Path]:
    """Return the images of one file, folder or pattern."""
    if is_zarr(place):
        return [_named(place)]
    if place.is_dir():
        files = sorted(p for p in place.iterdir() if _is_image(p))
        if not files:
            endings = ", ".join(sorted(IMAGE_SUFFIXES | {".zarr"}))
            raise ImageError(
                f"the folder '{place}' contains no images ({endings}); give a folder of images, or a pattern"
            )
        return files
    if place.is_file():
        return [place]
    files = sorted(p for p in map(Path, glob.glob(str(place))) if _is_image(p))
    if not files:
        raise ImageError(f"no image found at '{place}'; give a file, a folder or a pattern such as '*.tif'")
    return files


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
    series: int | str | None = None,
) -> list[Plane]:
    """Open a file and return its planes; pixels are read on demand, and no file stays open.

    Of uncompressed TIFF files only the required pixels are read, of compressed ones only the required strips or tiles
    are decoded, of zarr only the chunks. PNG, JPEG and BMP files are decoded as a whole when pixels are needed; what
    was decoded last is kept, up to a limit for all files together. A slide or an OME-Zarr image with several sizes is
    opened at the largest one. A file with several images gives all but the label, macro and overview pictures of a
    slide.

    Images are read as they are shown: in the orientation that the file says, with the colours of a palette, without
    alpha. No gamma or colour profile is applied.

    Parameters
    ----------
    path : path-like
        File, or zarr folder: OME-Zarr or a single array.
    channels : int, str, sequence of them, or None
        As in :func:`~napari_uflow.planes_of`; names are those of OME and ImageJ files.
    axes : str or None
        One letter per axis, in place of the axes that the file gives.
    series : int, str or None
        One image of a file with several, by name or by number from 0.

    Returns
    -------
    list of Plane
        Planes named after the file without its ending. `unit` is "um" for all spellings of micrometre. A resolution in
        dots per inch that is usual for screens and printers is not used as a calibration.

    Raises
    ------
    ImageError
        If the file does not exist, cannot be read, or does not fit `channels`, `axes` or `series`; if it has colours
        that cannot be read, or declares more than can be read; for a zarr folder, if the package zarr is missing.
        Reading pixels raises it if they are damaged, or the file is no longer there.
    """
    place = Path(path)
    try:
        return _read(place, channels, axes, series)
    except OSError as error:  # a folder that may not be entered, a file that vanishes
        raise unreadable(place, error) from error


def _read(
    path: Path, channels: int | str | Sequence[int | str] | None, axes: str | None, series: int | str | None
) -> list[Plane]:
    if is_zarr(path):
        return read_zarr(path, name=stem_of(_named(path)), channels=channels, axes=axes, series=series)
    if path.is_dir():
        raise ImageError(f"'{path}' is a folder; give a file in it")
    if not path.is_file():
        raise ImageError(f"'{path}' does not exist")
    if path.stat().st_size == 0:
        raise ImageError(f"'{path}' is empty")
    if path.suffix.lower() in TIFF_SUFFIXES:
        return read_tiff(path, channels, axes, series)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise ImageError(f"'{path}' has no readable image format; save it as TIFF or PNG")
    data, own_axes = open_picture(path)
    if series is not None:
        chosen_series([path.stem], [f"{data.shape[0]} x {data.shape[1]} pixels"], series, path)
    return planes_of(data, own_axes if axes is None else axes, channels=channels, name=path.stem, source=str(path))
