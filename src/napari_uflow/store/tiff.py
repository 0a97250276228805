"""Read TIFF files with their calibration (ImageJ, OME, baseline resolution)."""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from napari_uflow.errors import ImageError
from napari_uflow.image.plane import LazyArray, Plane, planes_of
from napari_uflow.store.files import stem_of
from napari_uflow.store.segments import TiffSegments
from napari_uflow.store.units import normal_unit

__all__ = ["READ_ERRORS", "TIFF_SUFFIXES", "read_tiff"]

TIFF_SUFFIXES = frozenset({".btf", ".lsm", ".ndpi", ".svs", ".tf8", ".tif", ".tiff"})


_SCREEN_DPI = frozenset({1, 72, 96, 100, 120, 144, 150, 180, 200, 240, 300, 400, 600, 1200})
"""Resolutions in dots per inch of screens and printers, which are unrelated to the specimen."""


READ_ERRORS = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError, struct.error)
"""Exceptions that decoders raise for a file that is damaged or of another format than its name says."""


def read_tiff(path: Path, channels: int | str | Sequence[int | str] | None, axes: str | None) -> list[Plane]:
    """Return the planes of all series of a TIFF file; parameters as in `napari_uflow.store.images.read_planes`."""
    try:
        with tifffile.TiffFile(path) as tif:
            all_series = [s for s in tif.series if s.kind in ("ome", "imagej", "shaped", "uniform", "generic")]
            all_series = [s for s in all_series if not (s.keyframe.is_reduced or s.keyframe.is_mask)] or list(
                tif.series[:1]
            )
            images = [(s.axes, _lazy(path, tif, s), s.name) for s in all_series]
            calibrations = [_calibration(tif, i, s) for i, s in enumerate(all_series)]
    except ImageError:
        raise
    except READ_ERRORS as error:
        raise ImageError(f"'{path}' cannot be read; the file is damaged or no TIFF file ({error})") from error
    if not images:
        raise ImageError(f"'{path}' contains no image")
    name = stem_of(path)
    planes = []
    for (own_axes, data, series_name), (pixel_size, unit, channel_names) in zip(images, calibrations, strict=True):
        planes += planes_of(
            data,
            own_axes if axes is None else axes,
            channels=channels,
            channel_names=channel_names,
            name=name if len(images) == 1 else f"{name} {series_name}".rstrip(),
            pixel_size=pixel_size,
            unit=unit,
            source=str(path),
        )
    return planes


def _lazy(path: Path, tif: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> LazyArray:
    offset = series.dataoffset
    is_one_file = all(p is None or p.parent is tif for p in series.pages)
    if offset is not None and is_one_file and math.prod(series.shape) > 0:
        dtype = np.dtype(series.dtype).newbyteorder(tif.byteorder)
        if offset + dtype.itemsize * math.prod(series.shape) > path.stat().st_size:
            raise ImageError(f"'{path}' cannot be read; the file ends before its pixels do, copy it again")
        mapped: LazyArray = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=tuple(series.shape))
        return mapped
    return TiffSegments(series)


_Calibration = tuple[tuple[float, float] | None, str | None, list[str] | None]


def _calibration(tif: tifffile.TiffFile, number: int, series: tifffile.TiffPageSeries) -> _Calibration:
    """Return pixel size, unit and channel names; None for each that the file does not give."""
    if tif.is_ome and tif.ome_metadata:
        return _ome_calibration(tif.ome_metadata, number)
    tags = series.keyframe.tags
    per_unit = [_ratio(tags[name].value) if name in tags else 0.0 for name in ("YResolution", "XResolution")]
    is_known = all(math.isfinite(r) and r > 0 for r in per_unit)
    if tif.is_imagej:
        metadata = tif.imagej_metadata or {}
        unit = normal_unit(str(metadata.get("unit", "")))
        pixel_size = (1 / per_unit[0], 1 / per_unit[1]) if is_known and unit else None
        return pixel_size, unit if pixel_size else None, _imagej_channel_names(metadata, series)
    um_per_unit = {2: 25400.0, 3: 10000.0}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2)
    if not is_known or um_per_unit is None:
        return None, None, None
    if any(round(r * 25400 / um_per_unit, 1) in _SCREEN_DPI or r == 1 for r in per_unit):
        return None, None, None
    return (um_per_unit / per_unit[0], um_per_unit / per_unit[1]), "um", None


def _ratio(value: Any) -> float:
    numerator, denominator = value
    return float(numerator) / float(denominator) if denominator else 0.0


def _imagej_channel_names(metadata: Mapping[str, Any], series: tifffile.TiffPageSeries) -> list[str] | None:
    labels = metadata.get("Labels")
    n_channels = dict(zip(series.axes, series.shape, strict=True)).get("C", 1)
    # ImageJ labels slices; they name channels only if they differ between channels.
    if not isinstance(labels, list) or n_channels == 1 or len(set(labels[:n_channels])) != n_channels:
        return None
    return [str(label) for label in labels[:n_channels]]


def _ome_calibration(xml: str, number: int) -> _Calibration:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None, None, None
    images = [e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]
    if number >= len(images):
        return None, None, None
    pixels = images[number]
    channels = [e for e in pixels if e.tag.rpartition("}")[2] == "Channel"]
    names = [c.get("Name") for c in channels]
    n_channels = int(pixels.get("SizeC", "1")) // max(int(channels[0].get("SamplesPerPixel", "1")), 1) if names else 0
    known = [n for n in names if n]
    channel_names = known if len(known) == len(names) == n_channels == len(set(known)) else None
    units = {normal_unit(pixels.get(f"PhysicalSize{a}Unit", "µm")) for a in "YX"}
    sizes = [float(pixels.get(f"PhysicalSize{a}", "nan")) for a in "YX"]
    unit = units.pop() if len(units) == 1 else None
    if unit is None or not all(math.isfinite(s) and s > 0 for s in sizes):
        return None, None, channel_names
    return (sizes[0], sizes[1]), unit, channel_names
