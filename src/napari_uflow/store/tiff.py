"""Pictures from files (TIFF, PNG, JPEG, BMP and folders of zarr), and to TIFF with its calibration (ImageJ, OME)."""

import glob
import json
import math
import os
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.plane import LazyArray, Plane, planes_of
from napari_uflow.store.files import atomic_path
from napari_uflow.store.omezarr import is_zarr, read_zarr
from napari_uflow.store.segments import TiffSegments
from napari_uflow.store.units import normal_unit

__all__ = ["IMAGE_SUFFIXES", "TIFF_SUFFIXES", "find_images", "read_planes", "write_tiff", "write_tiff_tiles"]

TIFF_SUFFIXES = frozenset({".btf", ".lsm", ".ndpi", ".svs", ".tf8", ".tif", ".tiff"})
IMAGE_SUFFIXES = TIFF_SUFFIXES | {".bmp", ".jpeg", ".jpg", ".png"}

_OME_UNITS = {"um": "µm", "inch": "in"}
"""Units that OME files name differently."""

_SCREEN_DPI = frozenset({1, 72, 96, 100, 120, 144, 150, 180, 200, 240, 300, 400, 600, 1200})
"""Dots per inch that programs write for screens and printers, and that say nothing about the specimen."""

_DAMAGE = (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, AttributeError, struct.error)
"""What decoders raise for a file that is damaged or not what its name says."""

_IMAGEJ_LIMIT = 2**32 - 2**25
"""Bytes of pixels that fit a TIFF file with offsets of 32 bits, 32 MB of metadata beside them."""


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files of pictures that are meant by paths.

    Parameters
    ----------
    paths : path-like or iterable of them
        Files; folders, of which all files with the ending of a picture are taken, but not those of folders inside; and
        patterns with ``*``, ``?`` or ``[]``. A folder that zarr wrote is one picture, named or found.

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
                raise ImageError(f"the folder '{place}' has no pictures ({endings})")
        elif place.is_file():
            files = [place]
        else:
            files = sorted(p for p in map(Path, glob.glob(str(place))) if _is_image(p))
            if not files:
                raise ImageError(f"no picture was found at '{place}'; give a file, a folder or a pattern like '*.tif'")
        found += files
    if not found:
        raise ImageError("no picture was named; give a file, a folder or a pattern like '*.tif'")
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
    decoded, and of zarr only the chunks. PNG, JPEG and BMP files are read whole. Of a slide or an OME-Zarr picture with
    several sizes the largest is taken; of an OME file with several pictures, all.

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
        return _read_tiff(place, channels, axes)
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return _read_other(place, channels, axes)
    raise ImageError(f"'{place}' is no picture that can be read; save it as TIFF or PNG")


def _read_other(path: Path, channels: int | str | Sequence[int | str] | None, axes: str | None) -> list[Plane]:
    try:
        with warnings.catch_warnings():
            # A picture of 100 million pixels is no attack here; twice as many is an error all the same.
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


def _read_tiff(path: Path, channels: int | str | Sequence[int | str] | None, axes: str | None) -> list[Plane]:
    try:
        with tifffile.TiffFile(path) as tif:
            all_series = [s for s in tif.series if s.kind in ("ome", "imagej", "shaped", "uniform", "generic")]
            all_series = [s for s in all_series if not s.keyframe.is_reduced] or list(tif.series[:1])
            pictures = [(s.axes, _lazy(path, tif, s), s.name) for s in all_series]
            calibrations = [_calibration(tif, i, s) for i, s in enumerate(all_series)]
    except ImageError:
        raise
    except _DAMAGE as error:
        raise ImageError(f"'{path}' cannot be read; the file is damaged or no TIFF file ({error})") from error
    if not pictures:
        raise ImageError(f"'{path}' contains no picture")
    name = _stem(path)
    planes = []
    for (own_axes, data, series_name), (pixel_size, unit, channel_names) in zip(pictures, calibrations, strict=True):
        planes += planes_of(
            data,
            own_axes if axes is None else axes,
            channels=channels,
            channel_names=channel_names,
            name=name if len(pictures) == 1 else f"{name} {series_name}".rstrip(),
            pixel_size=pixel_size,
            unit=unit,
            source=str(path),
        )
    return planes


def _stem(path: Path) -> str:
    return path.stem.removesuffix(".ome").removesuffix(".OME") or path.stem


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
    """Return pixel size, unit and channel names; None for what the file does not tell."""
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
    # ImageJ labels slices; only where they differ from channel to channel do they name channels.
    if not isinstance(labels, list) or n_channels == 1 or len(set(labels[:n_channels])) != n_channels:
        return None
    return [str(label) for label in labels[:n_channels]]


def _ome_calibration(xml: str, number: int) -> _Calibration:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None, None, None
    pictures = [e for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]
    if number >= len(pictures):
        return None, None, None
    pixels = pictures[number]
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


def write_tiff(
    path: str | os.PathLike[str],
    data: npt.ArrayLike,
    axes: str,
    *,
    pixel_size: tuple[float, float] | None = None,
    unit: str | None = None,
    z_spacing: float | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write an array as a TIFF file that Fiji opens with its axes, pixel size and unit; as a whole or not at all.

    An ImageJ hyperstack is written where ImageJ knows the type, and else OME-TIFF: for labels above 65535, colours of
    other types than uint8, pixel sizes below 1e-5 or above 1e5, files too large for 32 bits (4 GB), and where the name
    ends with ".ome.tif".

    Parameters
    ----------
    path : path-like
        Name of the file; one that exists is replaced.
    data : array-like
        Numbers. uint8, uint16 and float32 are kept, other real numbers become float32. Booleans become 0 and 1 of
        uint8, and other whole numbers (labels) uint16, or uint32 where one is above 65535. All whole numbers but uint8
        and uint16 are compressed (zlib).
    axes : str
        One letter of T, Z, C, Y, X, S for each axis, in any order.
    pixel_size : tuple of float or None
        Height and width of a pixel, in `unit`.
    unit : str or None
        Such as "um"; needed with `pixel_size`. A size in "pixel" is no calibration and is not written.
    z_spacing : float or None
        Distance of two planes on axis Z, in `unit`; not written without a pixel size or where there is no such axis.
    description : mapping or None
        Written as JSON: to the image's Info in an ImageJ file, to its Description in an OME file.

    Raises
    ------
    ImageError
        If the axes do not fit the data, or the data cannot be written: complex numbers, labels below 0 or above 2**32.
    ConfigError
        If the pixel size is not two numbers above 0 with a unit, or the spacing is not a number above 0.
    UFlowError
        If the file cannot be written; a previous one is left as it was.
    """
    target = Path(path)
    pixel_size, unit = _checked_calibration(pixel_size, unit)
    if z_spacing is not None and not (math.isfinite(z_spacing) and z_spacing > 0):
        raise ConfigError(f"z_spacing must be a number above 0, not {z_spacing}")
    if pixel_size is None or "Z" not in axes:
        z_spacing = None
    values, is_compressed = _writable(np.asarray(data), target)
    values, axes = _in_order(values, axes, target)
    is_ome = (
        target.name.lower().endswith((".ome.tif", ".ome.tiff"))
        or values.dtype == np.uint32
        or ("S" in axes and values.dtype != np.uint8)
        or values.nbytes > _IMAGEJ_LIMIT
        # ImageJ's pixel size is a ratio of two whole numbers of 32 bits.
        or (pixel_size is not None and not all(1e-5 <= size <= 1e5 for size in pixel_size))
    )
    options: dict[str, Any] = {"compression": "zlib"} if is_compressed else {}
    options["photometric"] = "rgb" if "S" in axes else "minisblack"
    with atomic_path(target) as temporary:
        if is_ome:
            with tifffile.TiffWriter(temporary, ome=True, bigtiff=values.nbytes > _IMAGEJ_LIMIT) as writer:
                written = _ome_metadata(axes, pixel_size, unit, description, z_spacing)
                writer.write(values, metadata=written, **options)
            return
        metadata: dict[str, Any] = {"axes": axes}
        if pixel_size is not None:
            metadata["unit"] = unit
            # Two whole numbers that ImageJ divides: pixels per unit.
            options["resolution"] = (1 / pixel_size[1], 1 / pixel_size[0])
            options["resolutionunit"] = "NONE"
        if z_spacing is not None:
            metadata["spacing"] = float(z_spacing)
        if description is not None:
            metadata["Info"] = json.dumps(description)
        with tifffile.TiffWriter(temporary, imagej=True) as writer:
            writer.write(values, metadata=metadata, **options)


def write_tiff_tiles(
    path: str | os.PathLike[str],
    tiles: Iterable[npt.NDArray[Any]],
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    *,
    tile: tuple[int, int] = (256, 256),
    pixel_size: tuple[float, float] | None = None,
    unit: str | None = None,
    description: Mapping[str, Any] | None = None,
    compression: str | None = "zlib",
) -> None:
    """Write a 2-D picture tile by tile as OME-TIFF, so it need not fit the memory; as a whole or not at all.

    Parameters
    ----------
    path : path-like
        Name of the file; one that exists is replaced.
    tiles : iterable of ndarray
        Row by row, of the shape `tile`; those at the bottom and right may be cut at the picture's end.
    shape : tuple of int
        Rows and columns (M, N) of the picture, in pixels.
    dtype : dtype
        uint8, uint16, uint32, int8, int16, int32 or float32; the tiles are converted to it.
    tile : tuple of int
        Rows and columns of a tile, in pixels; multiples of 16.
    pixel_size, unit, description
        As in `write_tiff`.
    compression : str or None
        As in `tifffile.TiffWriter.write`.

    Raises
    ------
    ConfigError
        If a size is out of its range, or the pixel size is not two numbers above 0 with a unit.
    ImageError
        If there are too few or too many tiles, or one has the wrong shape.
    UFlowError
        If the file cannot be written; a previous one is left as it was.
    """
    pixel_size, unit = _checked_calibration(pixel_size, unit)
    if len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f"shape must be two numbers of 1 or more (rows, columns), not {tuple(shape)}")
    if len(tile) != 2 or min(tile) < 16 or tile[0] % 16 or tile[1] % 16:
        raise ConfigError(f"tile must be two multiples of 16, not {tuple(tile)}")
    allowed = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")
    if np.dtype(dtype).name not in allowed:
        raise ConfigError(f"dtype must be one of {', '.join(allowed)}, not {np.dtype(dtype).name}")
    remaining = iter(tiles)
    n_bytes = np.dtype(dtype).itemsize * math.prod(-(-n // t) * t for n, t in zip(shape, tile, strict=True))
    with atomic_path(path) as temporary:
        with tifffile.TiffWriter(temporary, ome=True, bigtiff=n_bytes > _IMAGEJ_LIMIT) as writer:
            writer.write(
                _full_tiles(remaining, shape, tile, np.dtype(dtype)),
                shape=shape,
                dtype=dtype,
                tile=tile,
                compression=compression,
                photometric="minisblack",
                metadata=_ome_metadata("YX", pixel_size, unit, description),
            )
        if next(remaining, None) is not None:
            raise ImageError(f"there are more tiles than the {shape[0]} x {shape[1]} pixels of '{path}' take")


def _full_tiles(
    tiles: Iterator[npt.NDArray[Any]], shape: tuple[int, int], tile: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    """Take as many tiles as the picture has places, check them, and fill those at the border up with zeros."""
    places = [(row, col) for row in range(0, shape[0], tile[0]) for col in range(0, shape[1], tile[1])]
    for i, (row, col) in enumerate(places):
        values = next(tiles, None)
        if values is None:
            raise ImageError(f"there are {i} tiles, but {shape[0]} x {shape[1]} pixels take {len(places)}")
        cut = (min(tile[0], shape[0] - row), min(tile[1], shape[1] - col))
        if values.shape not in (cut, tuple(tile)):
            raise ImageError(f"tile {i} must have the shape {cut}, not {values.shape}")
        full = np.zeros(tile, dtype=dtype)
        full[: values.shape[0], : values.shape[1]] = values
        yield full


def _writable(values: npt.NDArray[Any], path: Path) -> tuple[npt.NDArray[Any], bool]:
    """Return the values in a type that can be written, and whether to compress them."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(np.float32, copy=False), False
    if values.dtype.kind == "b":
        return values.astype(np.uint8), True
    if values.dtype.kind not in "ui":
        raise ImageError(f"'{path}' cannot hold values of type {values.dtype}; convert them to real numbers")
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(values.dtype.newbyteorder("="), copy=False), False
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high >= 2**32:
        raise ImageError(f"'{path}' is to hold labels from 0 to {2**32 - 1}, not {low} to {high}; use float32")
    return values.astype(np.uint16 if high < 2**16 else np.uint32), True


def _in_order(values: npt.NDArray[Any], axes: str, path: Path) -> tuple[npt.NDArray[Any], str]:
    """Return the values with their axes in the order that ImageJ and OME files have them."""
    if len(axes) != values.ndim or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes) <= set("TZCYXS"):
        raise ImageError(
            f"axes of '{path}' must be {values.ndim} different letters of T, Z, C, Y, X, S with Y and X, not '{axes}'"
        )
    if "S" in axes and values.shape[axes.index("S")] not in (3, 4):
        raise ImageError(f"axis S of '{path}' must have 3 or 4 entries, not {values.shape[axes.index('S')]}; use C")
    if values.size == 0:
        raise ImageError(f"'{path}' cannot hold an empty picture of shape {values.shape}")
    ordered = "".join(a for a in "TZCYXS" if a in axes)
    return values.transpose([axes.index(a) for a in ordered]), ordered


def _checked_calibration(
    pixel_size: tuple[float, float] | None, unit: str | None
) -> tuple[tuple[float, float] | None, str | None]:
    """Return size and unit as they are written; None for both where the size is only one in pixels."""
    if pixel_size is None:
        return None, None
    if len(pixel_size) != 2 or not all(math.isfinite(s) and s > 0 for s in pixel_size):
        raise ConfigError(f"pixel_size must be two numbers above 0 (height, width), not {pixel_size}")
    if unit is None:
        raise ConfigError("unit must be given with pixel_size, for example unit='um'")
    unit = normal_unit(unit)
    return (None, None) if unit is None else ((float(pixel_size[0]), float(pixel_size[1])), unit)


def _ome_metadata(
    axes: str,
    pixel_size: tuple[float, float] | None,
    unit: str | None,
    description: Mapping[str, Any] | None,
    z_spacing: float | None = None,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"axes": axes}
    if pixel_size is not None and unit is not None:
        sizes = dict(zip("YX", pixel_size, strict=True))
        if z_spacing is not None:
            sizes["Z"] = float(z_spacing)
        for axis, size in sizes.items():
            metadata[f"PhysicalSize{axis}"] = size
            metadata[f"PhysicalSize{axis}Unit"] = _OME_UNITS.get(unit, unit)
    if description is not None:
        metadata["Description"] = json.dumps(description)
    return metadata
