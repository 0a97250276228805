"""Write calibrated TIFF files, as a whole or tile by tile."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import tifffile

from napari_uflow import __version__
from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.store.files import atomic_path
from napari_uflow.store.units import OME_UNITS, normal_unit

__all__ = ["write_tiff", "write_tiff_tiles"]

_IMAGEJ_LIMIT = 2**32 - 2**25
"""Bytes of pixels in a TIFF file with offsets of 32 bits, with 32 MB left for metadata."""

_SOFTWARE = f"napari-uflow {__version__}"
"""By which files written here are known, see `store.provenance`."""


@dataclass(frozen=True, slots=True)
class _Calibration:
    """Pixel size and distance of planes in a unit, and seconds between frames; None for each that is not written."""

    pixel_size: tuple[float, float] | None
    unit: str | None
    z_spacing: float | None = None
    frame_interval: float | None = None

    @classmethod
    def checked(
        cls,
        pixel_size: tuple[float, float] | None,
        unit: str | None,
        z_spacing: float | None = None,
        frame_interval: float | None = None,
    ) -> Self:
        """Return the calibration to write; a size in pixels is not written."""
        for name, value in (("z_spacing", z_spacing), ("frame_interval", frame_interval)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a number above 0, not {value}")
        interval = None if frame_interval is None else float(frame_interval)
        if pixel_size is None:
            return cls(None, None, None, interval)
        if len(pixel_size) != 2 or not all(math.isfinite(s) and s > 0 for s in pixel_size):
            raise ConfigError(f"pixel_size must be two numbers above 0 (height, width), not {pixel_size}")
        if unit is None:
            raise ConfigError("unit must be given with pixel_size, for example unit='um'")
        unit = normal_unit(unit)
        if unit is None:
            return cls(None, None, None, interval)
        spacing = None if z_spacing is None else float(z_spacing)
        return cls((float(pixel_size[0]), float(pixel_size[1])), unit, spacing, interval)

    def fits_imagej(self) -> bool:
        """Return True if ImageJ can store the pixel size: a ratio of two whole numbers of 32 bits."""
        return self.pixel_size is None or all(1e-5 <= size <= 1e5 for size in self.pixel_size)

    def ome_metadata(self, axes: str, description: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the metadata of an OME-TIFF file, as tifffile requires them."""
        metadata: dict[str, Any] = {"axes": axes}
        if self.pixel_size is not None and self.unit is not None:
            sizes = dict(zip("YX", self.pixel_size, strict=True))
            if self.z_spacing is not None and "Z" in axes:
                sizes["Z"] = self.z_spacing
            for axis, size in sizes.items():
                metadata[f"PhysicalSize{axis}"] = size
                metadata[f"PhysicalSize{axis}Unit"] = OME_UNITS.get(self.unit, self.unit)
        if self.frame_interval is not None and "T" in axes:
            metadata["TimeIncrement"] = self.frame_interval
            metadata["TimeIncrementUnit"] = "s"
        if description is not None:
            metadata["Description"] = json.dumps(description)
        return metadata

    def imagej_options(self, axes: str, description: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return metadata and resolution of an ImageJ file, as tifffile requires them."""
        metadata: dict[str, Any] = {"axes": axes}
        options: dict[str, Any] = {"metadata": metadata}
        if self.pixel_size is not None:
            metadata["unit"] = _escaped(self.unit or "")
            # pixels per unit, which tifffile writes as a ratio
            options["resolution"] = (1 / self.pixel_size[1], 1 / self.pixel_size[0])
            options["resolutionunit"] = "NONE"
        if self.z_spacing is not None and "Z" in axes:
            metadata["spacing"] = self.z_spacing
        if self.frame_interval is not None and "T" in axes:
            metadata["finterval"] = self.frame_interval
            metadata["tunit"] = "s"
        if description is not None:
            metadata["Info"] = json.dumps(description)
        return options


def _escaped(unit: str) -> str:
    r"""Return a unit in ASCII, as ImageJ writes it: \u00c5 for an ångström."""
    return "".join(c if c.isascii() and c.isprintable() else f"\\u{ord(c):04x}" for c in unit)


def write_tiff(
    path: str | os.PathLike[str],
    data: npt.ArrayLike,
    axes: str,
    *,
    pixel_size: tuple[float, float] | None = None,
    unit: str | None = None,
    z_spacing: float | None = None,
    frame_interval: float | None = None,
    description: Mapping[str, Any] | None = None,
) -> None:
    """Write an array as a TIFF file that Fiji opens with its axes, pixel size and unit; completely or not at all.

    The format is an ImageJ hyperstack if ImageJ supports the data, and OME-TIFF otherwise: for labels above 65535,
    whole numbers below 0, colours of other types than uint8, pixel sizes below 1e-5 or above 1e5, files too large for
    32 bits (4 GB), and names that end in ".ome.tif".

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.
    data : array-like
        Numbers. uint8, uint16 and float32 are kept, other real numbers become float32. Booleans become 0 and 1 of
        uint8; other whole numbers become uint16, or uint32 if one is above 65535, and int8, int16 or int32 if one is
        below 0. All whole numbers but uint8 and uint16 are compressed (zlib).
    axes : str
        One letter of T, Z, C, Y, X, S per axis, in any order.
    pixel_size : (float, float), optional
        Height and width of a pixel, in `unit`.
    unit : str, optional
        Unit such as "um"; required with `pixel_size`. A size in "pixel" is not written.
    z_spacing : float, optional
        Distance of two planes on axis Z, in `unit`; only written with a pixel size and an axis Z.
    frame_interval : float, optional
        Time between two planes on axis T, in seconds; only written with an axis T.
    description : mapping, optional
        Values written as JSON: to the Info of an ImageJ file, to the Description of an OME file.

    Raises
    ------
    ImageError
        If the axes do not fit the data, or the data cannot be written: complex numbers, whole numbers below -2**31 or
        above 2**32 - 1, or a mixture of some below 0 and some above 2**31 - 1.
    ConfigError
        If the pixel size is not two numbers above 0 with a unit, or spacing or interval are not numbers above 0.
    UFlowError
        If the file cannot be written; a previous one is kept.
    """
    target = Path(path)
    calibration = _Calibration.checked(pixel_size, unit, z_spacing, frame_interval)
    values, is_compressed = _writable(np.asarray(data), target)
    values, axes = _in_order(values, axes, target)
    options: dict[str, Any] = {"compression": "zlib"} if is_compressed else {}
    options["photometric"] = "rgb" if "S" in axes else "minisblack"
    options["software"] = _SOFTWARE
    with atomic_path(target) as temporary:
        if _is_ome(target, values, axes) or not calibration.fits_imagej():
            with tifffile.TiffWriter(temporary, ome=True, bigtiff=values.nbytes > _IMAGEJ_LIMIT) as writer:
                writer.write(values, metadata=calibration.ome_metadata(axes, description), **options)
        else:
            with tifffile.TiffWriter(temporary, imagej=True) as writer:
                writer.write(values, **calibration.imagej_options(axes, description), **options)


def _is_ome(target: Path, values: npt.NDArray[Any], axes: str) -> bool:
    """Return True for a name or data that ImageJ's format does not support."""
    return (
        target.name.lower().endswith((".ome.tif", ".ome.tiff"))
        or values.dtype == np.uint32
        or values.dtype.kind == "i"
        or ("S" in axes and values.dtype != np.uint8)
        or values.nbytes > _IMAGEJ_LIMIT
    )


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
    """Write a 2-D image tile by tile as OME-TIFF, without holding it in memory; completely or not at all.

    Parameters
    ----------
    path : path-like
        File to write; an existing one is replaced.
    tiles : iterable of ndarray
        Tiles row by row, of the shape `tile`; those at the bottom and on the right may end at the image's border.
    shape : (int, int)
        Rows and columns (M, N) of the image, in pixels.
    dtype : dtype
        uint8, uint16, uint32, int8, int16, int32 or float32; the tiles are converted to it.
    tile : (int, int)
        Rows and columns of a tile, in pixels; multiples of 16.
    pixel_size, unit, description
        As in :func:`write_tiff`.
    compression : str or None
        As in `tifffile.TiffWriter.write`.

    Raises
    ------
    ConfigError
        If a size is out of its range, or the pixel size is not two numbers above 0 with a unit.
    ImageError
        If there are too few or too many tiles, or one has the wrong shape.
    UFlowError
        If the file cannot be written; a previous one is kept.
    """
    calibration = _Calibration.checked(pixel_size, unit)
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
                software=_SOFTWARE,
                metadata=calibration.ome_metadata("YX", description),
            )
        if next(remaining, None) is not None:
            raise ImageError(f"there are more tiles than the {shape[0]} x {shape[1]} pixels of '{path}' require")


def _full_tiles(
    tiles: Iterator[npt.NDArray[Any]], shape: tuple[int, int], tile: tuple[int, int], dtype: np.dtype[Any]
) -> Iterator[npt.NDArray[Any]]:
    """Yield the checked tiles of an image, those at the border padded with zeros."""
    places = [(row, col) for row in range(0, shape[0], tile[0]) for col in range(0, shape[1], tile[1])]
    for i, (row, col) in enumerate(places):
        values = next(tiles, None)
        if values is None:
            raise ImageError(f"there are {i} tiles, but {shape[0]} x {shape[1]} pixels require {len(places)}")
        cut = (min(tile[0], shape[0] - row), min(tile[1], shape[1] - col))
        if values.shape not in (cut, tuple(tile)):
            raise ImageError(f"tile {i} must have the shape {cut}, not {values.shape}")
        full = np.zeros(tile, dtype=dtype)
        full[: values.shape[0], : values.shape[1]] = values
        yield full


def _writable(values: npt.NDArray[Any], path: Path) -> tuple[npt.NDArray[Any], bool]:
    """Return the values in a type that TIFF readers support, and whether to compress them."""
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(np.float32, copy=False), False
    if values.dtype.kind == "b":
        return values.astype(np.uint8), True
    if values.dtype.kind not in "ui":
        raise ImageError(f"'{path}' cannot store values of type {values.dtype}; convert them to real numbers")
    if values.dtype in (np.uint8, np.uint16):
        return values.astype(values.dtype.newbyteorder("="), copy=False), False
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    types = ("uint16", "uint32") if low >= 0 else ("int8", "int16", "int32")
    for name in types:
        if np.iinfo(name).min <= low and high <= np.iinfo(name).max:
            return values.astype(name), True
    raise ImageError(
        f"'{path}' cannot store whole numbers from {low} to {high}: they must be 0 to {2**32 - 1}, or {-(2**31)} to "
        f"{2**31 - 1}; use float32"
    )


def _in_order(values: npt.NDArray[Any], axes: str, path: Path) -> tuple[npt.NDArray[Any], str]:
    """Return the values with their axes in the order of ImageJ and OME files."""
    if len(axes) != values.ndim or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes) <= set("TZCYXS"):
        raise ImageError(
            f"axes of '{path}' must be {values.ndim} different letters of T, Z, C, Y, X, S with Y and X, not '{axes}'"
        )
    if "S" in axes and values.shape[axes.index("S")] not in (3, 4):
        raise ImageError(f"axis S of '{path}' must have 3 or 4 entries, not {values.shape[axes.index('S')]}; use C")
    if values.size == 0:
        raise ImageError(f"'{path}' cannot store an empty image of shape {values.shape}")
    ordered = "".join(a for a in "TZCYXS" if a in axes)
    return values.transpose([axes.index(a) for a in ordered]), ordered
