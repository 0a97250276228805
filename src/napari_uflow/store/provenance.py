"""Files that napari-uflow wrote, told from those of others by what is in them."""

from __future__ import annotations

import csv
import html
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import tifffile

from napari_uflow.errors import ConfigError, OverwriteError, UFlowError
from napari_uflow.store.table import EVALUATION_COLUMNS, REGION_COLUMNS, SUMMARY_COLUMNS
from napari_uflow.store.tiff import TIFF_SUFFIXES
from napari_uflow.wording import counted

__all__ = ["check_replaceable", "identities", "is_own", "is_result", "left_out_text", "without_results"]

_PROGRAM = "napari-uflow"
_KEY = '{"napari_uflow": '
_KEY_OF_MAPS = '"map": '
# Those of tables that were written before regions could be edited.
_FORMER_REGION_COLUMNS = tuple(name for name in REGION_COLUMNS if name != "is_edited")
# Bytes of a file in which the name of the program is written.
_HEAD = 1024
_FIGURE = b"tEXtSoftware\0" + _PROGRAM.encode()
_SAMPLE = b"tEXtSource\0" + _PROGRAM.encode()  # not a result: one may train on it and detect in it
_REPORT = re.compile(rb'\s*\{\s*"napari_uflow":')


def is_result(path: str | os.PathLike[str]) -> bool:
    """Return True if a file is a map, labels or a figure that napari-uflow wrote, saved again by others or not.

    Parameters
    ----------
    path : path-like
        File; one that cannot be read is no result.
    """
    place = Path(path)
    try:
        if not place.is_file():  # opening a pipe would wait for ever
            return False
        if place.suffix.lower() in TIFF_SUFFIXES:
            return _KEY in _tiff_texts(place)[1]
        return place.suffix.lower() == ".png" and _FIGURE in _head(place)
    except Exception:  # any error of a reader: a file that is damaged or of another format was not written here
        return False


def is_own(path: Path) -> bool:
    """Return True if a file is as a command wrote it.

    These are maps, figures, tables, reports, annotations, journals of batches and images of the sample. Labels that
    were corrected and saved again are not: another program signs them itself, and napari's layers are no maps of files.
    """
    try:
        if path.suffix.lower() in TIFF_SUFFIXES:
            software, description = _tiff_texts(path)
            return software.startswith(_PROGRAM) and _KEY in description and _KEY_OF_MAPS in description
        if path.suffix.lower() == ".png":
            return any(mark in _head(path) for mark in (_FIGURE, _SAMPLE))
        if path.suffix.lower() in (".geojson", ".json", ".jsonl"):
            return _REPORT.match(_head(path)) is not None
        with open(path, newline="", encoding="utf-8") as file:
            header = tuple(next(csv.reader(file), ()))
    except Exception:  # as above
        return False
    return header in (REGION_COLUMNS, _FORMER_REGION_COLUMNS, SUMMARY_COLUMNS, EVALUATION_COLUMNS)


def _tiff_texts(path: Path) -> tuple[str, str]:
    """Return the program and the description of a TIFF file; only its first page is read."""
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        info = (file.imagej_metadata or {}).get("Info", "") if file.is_imagej else file.pages.first.description
        software = tags["Software"].value if "Software" in tags else ""
    return str(software), html.unescape(str(info))


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_HEAD)


def without_results(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the images among files, and the results of this program among them.

    Raises
    ------
    ConfigError
        If all files are results.
    """
    results = [path for path in paths if is_result(path)]
    if results and len(results) == len(paths):
        raise ConfigError(f"'{results[0]}' is a result of a detection; give the images themselves")
    left_out = set(results)
    return [path for path in paths if path not in left_out], results


def left_out_text(results: Sequence[Path]) -> str:
    """Return the sentence that says that files are results of a detection and no images."""
    return f"left out: {counted(len(results), 'result')} of an earlier detection, such as '{results[0].name}'"


def identities(paths: Iterable[Path]) -> frozenset[tuple[int, int]]:
    """Return what the system knows files by, whatever their names: links and other spellings are the same file.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders; those that do not exist are left out.
    """
    return frozenset(found for path in paths if (found := _identity(path)) is not None)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_replaceable(
    path: str | os.PathLike[str], inputs: frozenset[tuple[int, int]] = frozenset(), *, overwrite: bool = False
) -> None:
    """Check that writing to a name destroys no image and no file of another origin.

    Parameters
    ----------
    path : path-like
        File to write.
    inputs : frozenset
        Images of the run, from :func:`identities`; they are never replaced.
    overwrite : bool
        True to replace files of any other origin.

    Raises
    ------
    ConfigError
        If the file exists and is one of the images.
    OverwriteError
        If it was not written by napari-uflow.
    UFlowError
        If the name is too long for the file system.
    """
    place = Path(path)
    if not _exists(place):
        return
    if _identity(place) in inputs:
        raise ConfigError(f"'{place}' cannot be written: it is one of the images; choose another place")
    if not overwrite and not (place.is_file() and is_own(place)):
        raise OverwriteError(
            f"'{place}' cannot be written: there is a file that is not a result of this program; "
            "choose another place, or move that file"
        )


def _exists(path: Path) -> bool:
    """Return True for a file, folder or link of this name."""
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(path)
            return True
    except OSError as error:
        raise UFlowError(
            f"'{path}' cannot be written ({error.strerror or error}); give the image or the folder a shorter name"
        ) from error
    return False
