"""Sizes that files give, in whatever units: as pixel size, spacing of slices and interval of frames."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from napari_uflow.image.pixel_size import length_ratio
from napari_uflow.store.units import normal_unit, seconds_per

__all__ = ["UNKNOWN", "Calibration", "number"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Calibration of an image, as :class:`~napari_uflow.Plane` has it; None for each that is unknown.

    Attributes
    ----------
    pixel_size : (float, float) or None
        Height and width of a pixel, in `unit`.
    unit : str or None
        Unit of length.
    z_spacing : float or None
        Distance of two slices, in `unit`.
    frame_interval : float or None
        Time between two frames, in seconds.
    """

    pixel_size: tuple[float, float] | None = None
    unit: str | None = None
    z_spacing: float | None = None
    frame_interval: float | None = None

    @classmethod
    def of(cls, sizes: Mapping[str, tuple[Any, Any]]) -> Self:
        """Return the calibration for sizes that a file gives.

        Parameters
        ----------
        sizes : mapping of str to (size, unit)
            Numbers and names of units as they are in the file, for the axes Y, X, Z and T. An axis whose number is not
            above 0 or whose unit is unknown is left out. Lengths in different units get that of the rows.
        """
        (height, unit), (width, other) = (_length(*sizes.get(axis, (None, None))) for axis in "YX")
        interval = number(sizes["T"][0]) * (seconds_per(str(sizes["T"][1])) or math.nan) if "T" in sizes else math.nan
        frame_interval = _if_positive(interval)
        ratio = length_ratio(other, unit) if unit and other else None
        pixel_size = (_if_positive(height), _if_positive(width * (math.nan if ratio is None else ratio)))
        if pixel_size[0] is None or pixel_size[1] is None:
            return cls(frame_interval=frame_interval)
        depth, depth_unit = _length(*sizes.get("Z", (None, None)))
        ratio = length_ratio(depth_unit, unit) if unit and depth_unit else None
        z_spacing = _if_positive(depth * (math.nan if ratio is None else ratio))
        return cls(
            pixel_size=(pixel_size[0], pixel_size[1]), unit=unit, z_spacing=z_spacing, frame_interval=frame_interval
        )

    @property
    def fields(self) -> dict[str, Any]:
        """The entries by name, as arguments of :func:`~napari_uflow.planes_of`."""
        return {
            "pixel_size": self.pixel_size,
            "unit": self.unit,
            "z_spacing": self.z_spacing,
            "frame_interval": self.frame_interval,
        }

    def turned(self) -> Self:
        """Return the calibration of the image with rows and columns exchanged."""
        if self.pixel_size is None:
            return self
        return type(self)(**{**self.fields, "pixel_size": self.pixel_size[::-1]})


UNKNOWN = Calibration()


def _length(size: Any, unit: Any) -> tuple[float, str | None]:
    return number(size), None if unit is None else normal_unit(str(unit))


def _if_positive(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def number(value: Any) -> float:
    """Return a number of a file, also one with a decimal comma ("0,25"); NaN if it is none."""
    if isinstance(value, str):
        value = value.strip()
        value = value.replace(",", ".") if value.count(",") == 1 and "." not in value else value
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
