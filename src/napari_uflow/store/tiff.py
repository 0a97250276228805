"""Read TIFF files with their calibration (ImageJ, OME, slides, baseline resolution)."""

import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import LazyArray, Plane, planes_of
from napari_uflow.store.calibration import UNKNOWN, Calibration
from napari_uflow.store.colours import as_shown
from napari_uflow.store.files import stem_of
from napari_uflow.store.ome import OmeImage, image_of, read_ome
from napari_uflow.store.raw import RawPixels
from napari_uflow.store.reading import DECODER_ERRORS, check_planes, is_inside, unreadable
from napari_uflow.store.segments import TiffSegments
from napari_uflow.store.series import chosen_series
from napari_uflow.store.views import oriented

__all__ = ["TIFF_SUFFIXES", "read_tiff"]

TIFF_SUFFIXES = frozenset({".btf", ".lsm", ".ndpi", ".svs", ".tf8", ".tif", ".tiff"})

_KINDS_OF_SEVERAL = frozenset({"ome", "imagej", "shaped", "uniform", "generic"})
"""Kinds of files whose series are separate images; those of others are one image in several sizes."""

_SCREEN_DPI = frozenset({1, 72, 96, 100, 120, 144, 150, 180, 200, 240, 300, 400, 600, 1200})
"""Resolutions in dots per inch of screens and printers, which are unrelated to the specimen."""

_MICROMETRES = {2: 25400.0, 3: 10000.0}
"""Micrometres in the units of the tag ResolutionUnit, inch and centimetre; 1 is none."""


def read_tiff(
    path: Path,
    channels: int | str | Sequence[int | str] | None,
    axes: str | None,
    series: int | str | None = None,
) -> list[Plane]:
    """Return the planes of a TIFF file; parameters as in `napari_uflow.store.images.read_planes`."""
    try:
        with tifffile.TiffFile(path) as tif:
            _check_pages(tif, path)
            described = read_ome(tif.pages.first.description, path)
            images = _images(tif, path, series, described)
    except ImageError:
        raise
    except DECODER_ERRORS as error:
        raise unreadable(path, error, "the file is damaged or no TIFF file") from error
    name = stem_of(path)
    planes = []
    for image in images:
        planes += planes_of(
            image.data,
            image.axes if axes is None else image.with_axes(axes),
            channels=channels,
            channel_names=image.channel_names,
            name=name if len(images) == 1 else f"{name} {image.name}".rstrip(),
            source=str(path),
            **image.calibration.fields,
        )
    return planes


def _check_pages(tif: tifffile.TiffFile, path: Path) -> None:
    """Follow the chain of pages, which tifffile does not check for circles; it may end in a damaged one."""
    layout, file, offset = tif.tiff, tif.filehandle, tif.pages.first.offset
    seen: set[int] = set()
    while offset:
        if offset in seen:
            raise ImageError(f"'{path}' cannot be read; it is damaged, its pages form a circle")
        seen.add(offset)
        check_planes(len(seen), path)
        try:
            file.seek(offset)
            (n_tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
            file.seek(offset + layout.tagnosize + n_tags * layout.tagsize)
            (offset,) = struct.unpack(layout.offsetformat, file.read(layout.offsetsize))
        except (struct.error, OSError, ValueError):
            return


@dataclass(frozen=True, kw_only=True)
class _Image:
    """Image of a file, as it is shown.

    Attributes
    ----------
    data : array-like
        Lazy array.
    axes : str
        One letter per axis.
    n_stored_axes : int
        Axes in the file, which gives a palette image no axis of colours.
    is_turned : bool
        Rows and columns are exchanged.
    name : str
        Name of the series.
    calibration : Calibration
        Sizes along these axes.
    channel_names : list of str or None
        Names of the channels.
    """

    data: LazyArray
    axes: str
    n_stored_axes: int
    is_turned: bool
    name: str
    calibration: Calibration
    channel_names: list[str] | None

    def with_axes(self, given: str) -> str:
        """Return the axes that the user gives for the file, as those of `data`."""
        letters = given.upper()
        if self.is_turned:
            letters = letters.translate(str.maketrans("YX", "XY"))
        return letters + self.axes[self.n_stored_axes :] if len(letters) == self.n_stored_axes else letters


def _images(tif: tifffile.TiffFile, path: Path, wanted: int | str | None, described: list[OmeImage]) -> list[_Image]:
    """Return the wanted images of an open file; by default all but thumbnails, labels, masks and smaller versions."""
    offered = list(tif.series)
    if wanted is None:
        separate = [
            s for s in offered if s.kind in _KINDS_OF_SEVERAL and not (s.keyframe.is_reduced or s.keyframe.is_mask)
        ]
        offered = separate or sorted(offered, key=lambda s: -s.keyframe.imagelength * s.keyframe.imagewidth)[:1]
    if not offered:
        raise ImageError(f"'{path}' contains no image")
    sizes = [f"{s.keyframe.imagelength} x {s.keyframe.imagewidth} pixels" for s in offered]
    chosen = chosen_series([str(s.name or "") for s in offered], sizes, wanted, path)
    return [_image(tif, path, offered[i], described) for i in chosen]


def _image(tif: tifffile.TiffFile, path: Path, series: tifffile.TiffPageSeries, described: list[OmeImage]) -> _Image:
    page = series.keyframe
    check_planes(math.prod(series.shape) // max(math.prod(page.shape), 1), path)
    for other in {p.parent.filehandle.path for p in series.pages if p is not None and p.parent is not tif}:
        if not is_inside(Path(other), path.parent, path.resolve().parent):
            raise ImageError(f"'{path}' refers to '{other}' outside its folder, which is not read")
    name = str(series.name or "")
    calibration, channel_names = UNKNOWN, None
    if tif.is_ome:
        own = image_of(described, name, (page.imagelength, page.imagewidth))
        calibration, channel_names = (own.calibration, own.channel_names) if own else (UNKNOWN, None)
    elif tif.is_imagej:
        metadata = tif.imagej_metadata or {}
        calibration, channel_names = _imagej_calibration(page, metadata), _imagej_channel_names(metadata, series)
    elif tif.is_svs:
        size = re.search(r"\bMPP *= *([^ |]+)", page.description)  # micrometres per pixel
        calibration = Calibration.of(dict.fromkeys("YX", (size[1], "um"))) if size else UNKNOWN
    if calibration == UNKNOWN and not tif.is_ome:
        calibration = _baseline_calibration(page)
    data, axes = as_shown(_lazy(path, tif, series), series.axes, series, path)
    orientation = _orientation(page)
    data, axes = oriented(data, axes, orientation)
    is_turned = axes[: len(series.axes)] != series.axes
    return _Image(
        data=data,
        axes=axes,
        n_stored_axes=len(series.axes),
        is_turned=is_turned,
        name=name,
        calibration=calibration.turned() if is_turned else calibration,
        channel_names=channel_names,
    )


def _lazy(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> LazyArray:
    offset = series.dataoffset
    is_one_file = all(p is None or p.parent is tif for p in series.pages)
    if offset is not None and is_one_file and math.prod(series.shape) > 0:
        dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        if not isinstance(offset, int) or offset < 0:  # a tag may have any type
            raise ImageError(f"'{path}' is damaged: the place of its pixels is no whole number; copy it again")
        if offset + dtype.itemsize * math.prod(series.shape) > os.stat(path).st_size:
            raise ImageError(f"'{path}' cannot be read; the file ends before its pixels do, copy it again")
        return RawPixels(path, dtype, tuple(int(n) for n in series.shape), offset)
    return TiffSegments(series)


def _orientation(page: tifffile.TiffPage) -> int:
    value = page.tags.valueof(274, 1)
    return int(value) if isinstance(value, int) else 1


def _pixels_per_unit(page: tifffile.TiffPage) -> dict[str, float]:
    """Return the resolution along Y and X, NaN if it is unknown."""
    return {axis: _ratio(page.tags.valueof(tag)) for axis, tag in (("Y", 283), ("X", 282))}


def _ratio(value: Any) -> float:
    try:
        numerator, denominator = value
        return float(numerator) / float(denominator)
    except (TypeError, ValueError, ArithmeticError):
        return math.nan


def _inverse(value: float) -> float:
    return 1 / value if value else math.nan


def _imagej_calibration(page: tifffile.TiffPage, metadata: Mapping[str, Any]) -> Calibration:
    interval = (metadata.get("finterval"), metadata.get("tunit", "s"))
    unit = metadata.get("unit")
    if unit is None:  # ImageJ, too, falls back on the unit of the resolution
        baseline = _baseline_calibration(page)
        return Calibration(**{**baseline.fields, "frame_interval": Calibration.of({"T": interval}).frame_interval})
    units = {"X": unit, "Y": metadata.get("yunit", unit), "Z": metadata.get("zunit", unit)}
    sizes = {axis: (_inverse(resolution), units[axis]) for axis, resolution in _pixels_per_unit(page).items()}
    return Calibration.of({**sizes, "Z": (metadata.get("spacing"), units["Z"]), "T": interval})


def _baseline_calibration(page: tifffile.TiffPage) -> Calibration:
    """Return the pixel size, in micrometres, for a resolution that is not that of a screen or a printer."""
    um = _MICROMETRES.get(page.tags.valueof(296, 2))
    resolution = _pixels_per_unit(page)
    if um is None or not all(math.isfinite(r) and r > 0 for r in resolution.values()):
        return UNKNOWN
    if any(round(r * 25400 / um, 1) in _SCREEN_DPI or r == 1 for r in resolution.values()):
        return UNKNOWN
    return Calibration.of({axis: (um / r, "um") for axis, r in resolution.items()})


def _imagej_channel_names(metadata: Mapping[str, Any], series: tifffile.TiffPageSeries) -> list[str] | None:
    labels = metadata.get("Labels")
    n_channels = dict(zip(series.axes, series.shape, strict=True)).get("C", 1)
    # ImageJ labels slices; they name channels only if they differ between channels.
    if not isinstance(labels, list) or n_channels == 1 or len(set(labels[:n_channels])) != n_channels:
        return None
    return [str(label) for label in labels[:n_channels]]
