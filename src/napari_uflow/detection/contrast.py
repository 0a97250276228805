"""Pixels of an anomaly, told from the normal pixels around it by their brightness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["FEWEST_AROUND", "Contrast", "find_contrast"]

# Smoothing against pixel noise, in pixels; a line 2 pixels wide keeps 80 % of its contrast.
_SMOOTHING = 0.8
# A pixel differs from its normal surroundings if it is as many standard deviations away from them ...
_LEAST_DEVIATIONS = 3.0
# ... and has this fraction of the strongest contrast (.9 quantile) inside. The edge of a blurred object is at half of
# its contrast; fine objects consist of edges.
_LEAST_FRACTION = 0.4
# Such pixels must be this many times more frequent inside than around.
_LEAST_EXCESS = 2.0
_FEWEST_DIFFERENT = 4
FEWEST_AROUND = 100
"""Pixels of the surroundings that a comparison requires."""
# Pixels of the surroundings to which their trend is fitted.
_MOST_FITTED = 1500
# The noise is assumed to be no less than this fraction of the range of the values.
_LEAST_NOISE = 0.005
_NORMAL_MAD = 1.4826


@dataclass(frozen=True, slots=True, eq=False)
class Contrast:
    """Pixels that differ from normal ones.

    Attributes
    ----------
    differs : (h, w) array, bool
        Pixels that differ, inside and outside of the region.
    deviation : (h, w) array, float32
        Deviation from the surroundings in standard deviations of them, 0 or more.
    """

    differs: NDArray[np.bool_]
    deviation: NDArray[np.float32]


def find_contrast(image: NDArray[np.float32], inside: NDArray[np.bool_], around: NDArray[np.bool_]) -> Contrast | None:
    """Find the pixels of a region that are brighter or darker than the normal pixels around it.

    Each channel, and the mean of them, is compared with a plane fitted robustly to the surroundings. Brighter and
    darker pixels are judged separately. A kind of difference counts if it is more frequent inside than around.

    Parameters
    ----------
    image : (C, h, w) array, float32
        Pixels; NaN and infinities are ignored.
    inside : (h, w) array, bool
        Pixels of the anomalous region, which usually contain normal pixels too.
    around : (h, w) array, bool
        Normal pixels around the region.

    Returns
    -------
    Contrast or None
        None if the brightness does not decide: nothing differs (an anomaly of texture), or there is nothing to compare
        the region with.
    """
    is_valid = np.asarray(np.isfinite(image).all(axis=0))
    around = np.logical_and(around, is_valid)
    inside = np.logical_and(inside, is_valid)
    if np.count_nonzero(around) < FEWEST_AROUND or np.count_nonzero(inside) < _FEWEST_DIFFERENT:
        return None
    differs = np.zeros(inside.shape, dtype=np.bool_)
    deviation = np.zeros(inside.shape, dtype=np.float32)
    for channel in _with_mean(image):
        signed = _deviation(channel, is_valid, around)
        for sign in (1, -1):
            values = sign * signed
            threshold = _threshold(values[inside])
            if threshold is None:
                continue
            found = (values >= threshold) & is_valid
            n_inside, n_around = np.count_nonzero(found & inside), np.count_nonzero(found & around)
            frequency_inside = n_inside / np.count_nonzero(inside)
            frequency_around = (n_around + 1) / (np.count_nonzero(around) + 1)
            if n_inside >= _FEWEST_DIFFERENT and frequency_inside >= _LEAST_EXCESS * frequency_around:
                differs |= found
                np.maximum(deviation, values, out=deviation)
    return Contrast(differs, deviation) if differs.any() else None


def _with_mean(image: NDArray[np.float32]) -> list[NDArray[np.floating]]:
    if len(image) == 1 or all(np.array_equal(image[0], channel, equal_nan=True) for channel in image[1:]):
        return [image[0]]
    with np.errstate(invalid="ignore"):  # infinities of both signs
        return [*image, image.mean(axis=0, dtype=np.float64)]


def _threshold(values: NDArray[np.float32]) -> float | None:
    """Return the deviation from which pixels of the region differ, or None if too few do."""
    high = values[values >= _LEAST_DEVIATIONS]
    if high.size < _FEWEST_DIFFERENT:
        return None
    return max(_LEAST_DEVIATIONS, _LEAST_FRACTION * float(np.quantile(high, 0.9)))


def _deviation(
    channel: NDArray[np.floating], is_valid: NDArray[np.bool_], around: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Return the deviation from the surroundings, in standard deviations of them; 0 in pixels without a value."""
    low, high = channel[is_valid].min(), channel[is_valid].max()
    # A large offset would cost the precision of float32; the values may span all of its range.
    values = np.where(is_valid, channel.astype(np.float64) - float(low), 0.0) / max(float(high) - float(low), 1e-30)
    if not is_valid.all():
        values[~is_valid] = np.median(values[around])
    values = ndimage.gaussian_filter(values, _SMOOTHING)
    values -= _plane(values, around)
    known = values[around]
    values -= np.median(known)
    noise = max(_NORMAL_MAD * float(np.median(np.abs(known - np.median(known)))), _LEAST_NOISE)
    values /= noise
    values[~is_valid] = 0.0
    return np.asarray(values, dtype=np.float32)


def _plane(values: NDArray[np.float64], around: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return a plane (h, w) fitted to the pixels around a region, without those that deviate from it."""
    height, width = values.shape
    rows, cols = np.nonzero(around)
    step = -(-rows.size // _MOST_FITTED)
    rows, cols = rows[::step], cols[::step]
    known = values[rows, cols]
    terms = np.stack([np.ones(rows.size), rows / height - 0.5, cols / width - 0.5], axis=1)
    kept = np.ones(rows.size, dtype=np.bool_)
    coefficients = np.array([np.median(known), 0.0, 0.0])
    for _ in range(4):
        coefficients = np.linalg.lstsq(terms[kept], known[kept], rcond=None)[0]
        residual = known - terms @ coefficients
        centre = np.median(residual[kept])
        deviation = np.abs(residual - centre)
        kept = deviation <= 2.5 * _NORMAL_MAD * np.median(deviation[kept]) + 1e-12
        if np.count_nonzero(kept) < 10:
            break
    slope_down, slope_right = coefficients[1:]
    plane = coefficients[0] + slope_down * (np.arange(height) / height - 0.5)[:, None]
    return np.asarray(plane + slope_right * (np.arange(width) / width - 0.5)[None, :])
