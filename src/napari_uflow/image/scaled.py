"""Planes at another magnification, resampled window by window."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_uflow.image.grid import Window
from napari_uflow.image.plane import LazyArray, Plane
from napari_uflow.image.region import NormalRegion

__all__ = ["scale_of", "scaled_plane", "scaled_regions"]

# Shape of the cubic kernel of Catmull and Rom, which passes through the pixels.
_CUBIC = -0.5


def scaled_plane(plane: Plane, magnification: float) -> Plane:
    """Return a plane at another magnification; itself at 1.

    Pixel (i, j) of the result is centred on ((i + 0.5) / magnification - 0.5, ...) of the plane: interpolated by a
    cubic kernel, or averaged with the weights of a triangle if the result is coarser. A window has the values of the
    whole.

    Parameters
    ----------
    plane : Plane
        Image, read on demand.
    magnification : float
        Pixels of the result per pixel of the plane, above 0.
    """
    if magnification == 1:
        return plane
    data = _ScaledArray(plane, magnification)
    pixel_size = plane.pixel_size and (plane.pixel_size[0] / magnification, plane.pixel_size[1] / magnification)
    return replace(plane, data=data, axes="CYX", index={}, channels=None, name=plane.title, pixel_size=pixel_size)


def scaled_regions(regions: Sequence[NormalRegion], magnification: float | Sequence[float]) -> list[NormalRegion]:
    """Return regions at another magnification; a region that is given several times stays one object.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Normal regions.
    magnification : float or sequence of float
        As for :func:`scaled_plane`, of all regions or of each; regions of one image have the same.
    """
    each = [magnification] * len(regions) if isinstance(magnification, int | float) else magnification
    planes: list[tuple[Plane, Plane]] = []
    scaled: dict[int, NormalRegion] = {}
    for region, own in zip(regions, each, strict=True):
        if own == 1:
            scaled[id(region)] = region
        elif id(region) not in scaled:
            plane = next((to for of, to in planes if of.is_same_image(region.plane)), None)
            if plane is None:
                plane = scaled_plane(region.plane, own)
                planes.append((region.plane, plane))
            mask = None if region.mask is None else _ScaledMask(region.mask, plane.shape, own)
            scaled[id(region)] = NormalRegion(plane, mask, region.specimen, is_marked_normal=region.is_marked_normal)
    return [scaled[id(region)] for region in regions]


def scale_of(plane: Plane) -> float:
    """Return the magnification that :func:`scaled_plane` made a plane with; 1 for other planes."""
    return plane.data.magnification if isinstance(plane.data, _ScaledArray) else 1.0


class _ScaledArray:
    """Array (C, M, N) of a plane at another magnification."""

    def __init__(self, plane: Plane, magnification: float):
        self._plane, self.magnification = plane, magnification
        self.shape = (plane.n_channels, *_size(plane.shape, magnification))
        self.dtype = np.dtype(np.float32)
        self.can_be_missing = plane.can_be_missing

    def __getitem__(self, key: Any) -> npt.NDArray[np.float32]:
        channels, rows, cols = key
        first_row, stop_row, _ = rows.indices(self.shape[1])
        first_col, stop_col, _ = cols.indices(self.shape[2])
        row, row_taps, row_weights = _taps(first_row, stop_row, self.magnification)
        col, col_taps, col_weights = _taps(first_col, stop_col, self.magnification)
        window = Window(row, col, int(row_taps.max()) + 1, int(col_taps.max()) + 1)
        values = self._plane.read(window)[channels]
        values[~np.isfinite(values)] = np.nan  # infinite pixels count as missing ones
        down = sum(values[:, row_taps[:, k]] * row_weights[:, k, None] for k in range(row_taps.shape[1]))
        across = sum(down[:, :, col_taps[:, k]] * col_weights[:, k] for k in range(col_taps.shape[1]))
        return np.asarray(across, dtype=np.float32)


class _ScaledMask:
    """Mask (M, N) at another magnification: that of the nearest pixel."""

    def __init__(self, mask: LazyArray, shape: tuple[int, int], magnification: float):
        self._mask, self._magnification = mask, magnification
        self.shape = shape
        self.dtype = mask.dtype

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, cols = (self._nearest(part, axis) for axis, part in enumerate(key))
        if not len(rows) or not len(cols):
            return np.zeros((len(rows), len(cols)), dtype=self.dtype)
        read = self._mask[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        nearest: npt.NDArray[Any] = np.asarray(read)[rows - rows[0]][:, cols - cols[0]]
        return nearest

    def _nearest(self, part: slice, axis: int) -> npt.NDArray[np.int64]:
        at = (np.arange(*part.indices(self.shape[axis])) + 0.5) / self._magnification
        return np.minimum(at.astype(np.int64), self._mask.shape[axis] - 1)


def _size(shape: tuple[int, int], magnification: float) -> tuple[int, int]:
    """Return rows and columns such that the result covers the image."""
    rows, cols = (math.ceil(n * magnification - 1e-9) for n in shape)
    return rows, cols


def _taps(start: int, stop: int, magnification: float) -> tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return the first pixel to read, and for each pixel of the result those it is made of with their weights."""
    centres = (np.arange(start, stop) + 0.5) / magnification - 0.5
    width = max(1.0, 1 / magnification)
    reach = 2.0 if magnification > 1 else width
    first = np.ceil(centres - reach).astype(np.int64)
    pixels = first[:, None] + np.arange(math.ceil(2 * reach))
    distances = np.abs(pixels - centres[:, None])
    weights = _cubic(distances) if magnification > 1 else np.clip(1 - distances / width, 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return int(pixels.min()), pixels - pixels.min(), weights.astype(np.float32)


def _cubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
