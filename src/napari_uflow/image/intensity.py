"""Intensity range of a model: fitted on normal pixels in training and never refitted to a new image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.image.grid import TileGrid
from napari_uflow.image.region import NormalRegion, common_channels

__all__ = ["IntensityRange"]

_SAMPLE_TILE = 256
"""Height and width of the sampled windows, in pixels; the usual tile of a compressed image."""


@dataclass(frozen=True)
class IntensityRange:
    """Pixel values that map to 0 and to 1, for each channel.

    Parameters
    ----------
    low, high : tuple of float
        One value per channel, in the units of the image; each high is above its low.

    Raises
    ------
    ConfigError
        If the numbers are not finite, or a high is not above its low.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(float(v) for v in self.low))
        object.__setattr__(self, "high", tuple(float(v) for v in self.high))
        if not self.low or len(self.low) != len(self.high):
            raise ConfigError(f"low and high must have one number per channel, not {self.low} and {self.high}")
        pairs = zip(self.low, self.high, strict=True)
        if not all(math.isfinite(a) and math.isfinite(b) and 0 < b - a < math.inf for a, b in pairs):
            raise ConfigError(f"each high must be finite and above its low, not low={self.low}, high={self.high}")

    @property
    def n_channels(self) -> int:
        """Number of channels C."""
        return len(self.low)

    @property
    def span(self) -> tuple[float, ...]:
        """High minus low of each channel, above 0."""
        return tuple(high - low for low, high in zip(self.low, self.high, strict=True))

    @classmethod
    def fit(
        cls,
        regions: Sequence[NormalRegion],
        *,
        rng: np.random.Generator,
        low_percentile: float = 0.1,
        high_percentile: float = 99.9,
        max_pixels: int = 2_000_000,
    ) -> "IntensityRange":
        """Fit the range to normal pixels.

        All normal pixels are used if the regions have no more than about `max_pixels` pixels. Otherwise windows are
        drawn at random, at least one from every region, and the same fraction of the normal pixels of each. A channel
        whose percentiles coincide, such as sparse spots on black, gets its minimum and maximum; a constant one gets
        ``high = low + 1``.

        Parameters
        ----------
        regions : sequence of NormalRegion
            Normal regions with the same number of channels.
        rng : Generator
            Random generator that draws windows and pixels.
        low_percentile, high_percentile : float
            Percentiles, 0 to 100, the first below the second.
        max_pixels : int
            Approximate number of pixels in memory, 1000 or more; each needs 4 bytes per channel.

        Raises
        ------
        ConfigError
            If a parameter is out of its range.
        ImageError
            If there is no region or no normal pixel, or the numbers of channels differ.
        """
        if not 0 <= low_percentile < high_percentile <= 100:
            raise ConfigError(
                "low_percentile and high_percentile must be from 0 to 100 and the first below the second, "
                f"not {low_percentile} and {high_percentile}"
            )
        if max_pixels < 1000:
            raise ConfigError(f"max_pixels must be 1000 or more, not {max_pixels}")
        n_channels = common_channels(regions)
        pixels = _sample(regions, max_pixels, rng)
        if pixels.shape[1] == 0:
            raise ImageError(
                "the regions contain no normal pixel; check that the masks are not empty and that the images do not "
                "consist of NaN"
            )
        low, high = [], []
        for c in range(n_channels):
            a, b = (float(v) for v in np.percentile(pixels[c].astype(np.float64), [low_percentile, high_percentile]))
            if not a < b:
                a, b = float(pixels[c].min()), float(pixels[c].max())
            if not a < b:
                b = a + max(1.0, abs(a) * 1e-6)  # the second term for values that float32 cannot distinguish
            low.append(a)
            high.append(b)
        return cls(tuple(low), tuple(high))

    def apply(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scale pixels so that low maps to 0 and high to 1.

        Parameters
        ----------
        values : (C, h, w) array, float32
            Pixels from :meth:`Plane.read`.

        Returns
        -------
        (C, h, w) array, float32
            Scaled pixels, -1 to 2: pixels brighter than the training images stay brighter, and saturated ones stay
            finite. NaN and infinite pixels become 0.5; :meth:`Plane.read_valid` masks them in all results.

        Raises
        ------
        ImageError
            If the number of channels differs from that of the range.
        """
        if values.ndim != 3 or values.shape[0] != self.n_channels:
            raise ImageError(
                f"the image has {values.shape[0] if values.ndim == 3 else 1} channels but the model was trained "
                f"on {self.n_channels}; choose the channels of the training images"
            )
        low = np.asarray(self.low, dtype=np.float64)[:, None, None].astype(np.float32)
        span = np.subtract(self.high, self.low)[:, None, None].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore", under="ignore"):
            scaled = (values.astype(np.float32, copy=False) - low) / span
        np.clip(scaled, -1, 2, out=scaled)
        scaled[~np.isfinite(values) | np.isnan(scaled)] = 0.5
        return scaled

    def to_dict(self) -> dict[str, list[float]]:
        """Return plain lists for JSON."""
        return {"low": list(self.low), "high": list(self.high)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "IntensityRange":
        """Return the range from the values of :meth:`to_dict`.

        Raises
        ------
        ConfigError
            If an entry is missing or is not a list of numbers.
        """
        try:
            return cls(tuple(float(v) for v in values["low"]), tuple(float(v) for v in values["high"]))
        except (KeyError, TypeError) as error:
            raise ConfigError(f"an intensity range needs the lists 'low' and 'high', not {values!r}") from error


def _sample(regions: Sequence[NormalRegion], max_pixels: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return normal pixels (C, n), the same fraction of each sampled window."""
    grids = [TileGrid(r.plane.shape, tile=_SAMPLE_TILE, halo=0, align=1) for r in regions]
    n_all = sum(r.plane.shape[0] * r.plane.shape[1] for r in regions)
    if n_all <= max_pixels:
        n_windows, fraction = max(len(g) for g in grids), 1.0
    else:
        # Four times as many windows as the pixels would fill: neighbouring pixels are redundant.
        n_windows = max(1, 4 * max_pixels // _SAMPLE_TILE**2 // len(regions))
        n_sampled = sum(
            min(n_windows / len(g), 1) * r.plane.shape[0] * r.plane.shape[1]
            for r, g in zip(regions, grids, strict=True)
        )
        fraction = min(max_pixels / n_sampled, 1.0)
    parts = [np.empty((regions[0].plane.n_channels, 0), dtype=np.float32)]
    for region, grid in zip(regions, grids, strict=True):
        n_found = 0
        for i in rng.permutation(len(grid)):
            window = grid[int(i)].inner
            if not region.masked(window).any():
                continue
            values, normal = region.read(window)
            pixels = values[:, normal]
            if pixels.shape[1] == 0:
                continue
            if fraction < 1:
                n_kept = math.ceil(fraction * pixels.shape[1])
                pixels = pixels[:, rng.choice(pixels.shape[1], size=n_kept, replace=False)]
            parts.append(pixels)
            n_found += 1
            if n_found == n_windows:
                break
    return np.concatenate(parts, axis=1)
