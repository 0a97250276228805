"""Pixel sizes of images: compared across units, and the middle one of several images."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from napari_uflow.image.plane import Plane

__all__ = ["PixelSize", "length_ratio", "median_pixel_size"]

_METRES = {
    "fm": 1e-15,
    "pm": 1e-12,
    "angstrom": 1e-10,
    "nm": 1e-9,
    "um": 1e-6,
    "µm": 1e-6,
    "μm": 1e-6,
    "mm": 1e-3,
    "cm": 1e-2,
    "dm": 1e-1,
    "m": 1.0,
    "km": 1e3,
    "in": 0.0254,
    "inch": 0.0254,
}

# Smallest area in square metres that is given in square millimetres.
_LEAST_IN_MM2 = 1e-8


def length_ratio(unit: str, other: str) -> float | None:
    """Return a unit as a multiple of another one; None if they differ and one of them is no known length.

    Examples
    --------
    >>> length_ratio("mm", "um")
    1000.0
    """
    if unit == other:
        return 1.0
    if unit not in _METRES or other not in _METRES:
        return None
    return float(f"{_METRES[unit] / _METRES[other]:.12g}")  # 1 mm is not 999.9999999999999 um


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Height and width of a pixel, above 0, and their unit; None for an unknown unit."""

    height: float
    width: float
    unit: str | None = None

    @classmethod
    def of(cls, plane: Plane) -> Self | None:
        """Return the pixel size of a plane; None if it is not known."""
        return None if plane.pixel_size is None else cls(*plane.pixel_size, plane.unit)

    @property
    def kind(self) -> str | None:
        """One name for all units of length; the unit itself if it is another one."""
        return "length" if self.unit in _METRES else self.unit

    @property
    def side(self) -> float:
        """Side of a square of the same area, in metres or in a unit that is no length."""
        return math.sqrt(self.height * self.width) * _METRES.get(self.unit or "", 1.0)

    def over(self, other: PixelSize) -> tuple[float, float] | None:
        """Return height and width as multiples of another pixel's; None if the units cannot be compared.

        Examples
        --------
        >>> PixelSize(250, 125, "nm").over(PixelSize(0.5, 0.5, "um"))
        (0.5, 0.25)
        """
        if self.kind != other.kind:
            return None
        unit = 1.0 if self.unit == other.unit else _METRES[self.unit or ""] / _METRES[other.unit or ""]
        return self.height / other.height * unit, self.width / other.width * unit

    def area_text(self, n_pixels: float) -> str:
        """Return the area of pixels in words; "" for a unit that is no length.

        Examples
        --------
        >>> PixelSize(0.5, 0.5, "um").area_text(1024**2), PixelSize(2, 2, "nm").area_text(1000)
        ('0.262 mm^2', '0.004 um^2')
        """
        if self.unit not in _METRES:
            return ""
        area = n_pixels * self.side**2
        exponent, unit = (-6, "mm^2") if area >= _LEAST_IN_MM2 else (-12, "um^2")
        return f"{area / 10.0**exponent:.3g} {unit}"

    def text(self) -> str:
        """Return the size in words, such as "0.5 um"."""
        size = f"{self.height:g}" if self.height == self.width else f"{self.height:g} x {self.width:g}"
        return f"{size} {self.unit}" if self.unit else size


def median_pixel_size(planes: Iterable[Plane]) -> PixelSize | None:
    """Return the median of the known pixel sizes: that of one of the images, the finer of the middle two.

    An image keeps its pixels then, and its detail. Of units that cannot be compared, those of most images count.

    Parameters
    ----------
    planes : iterable of Plane
        Images.

    Returns
    -------
    PixelSize or None
        None if no image has a pixel size.
    """
    by_kind: dict[str | None, list[PixelSize]] = {}
    for plane in planes:
        size = PixelSize.of(plane)
        if size is not None:
            by_kind.setdefault(size.kind, []).append(size)
    if not by_kind:
        return None
    most = max(by_kind.values(), key=lambda sizes: len(sizes))
    sizes = sorted(most, key=lambda size: size.side)
    return sizes[(len(sizes) - 1) // 2]
