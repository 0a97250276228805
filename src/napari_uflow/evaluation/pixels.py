"""Pixels of a set of images by class, and the exact areas and thresholds that metrics compute from them.

No metric scans a grid of thresholds. Each needs, for every anomalous pixel, only the number of normal pixels that score
higher: the normal pixels are sorted once, in 4 bytes each, and all values are exact, ties included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_uflow.errors import ImageError

__all__ = ["EIGHT_NEIGHBOURS", "Arrays", "Pixels", "check_pairs", "curve_area", "ramp_area"]

Arrays = Sequence[NDArray[Any]]

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)
"""Structuring element that joins pixels which share a side or a corner."""


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """Pixels of a set of images, by class.

    Attributes
    ----------
    normal : (n_normal,) array, float32
        Scores of normal pixels, ascending.
    anomalous : (n_anomalous,) array, float32
        Scores of anomalous pixels.
    weights : (n_anomalous,) array, float64
        1 / (size of the pixel's true region * number of regions); they sum to 1.
    """

    normal: NDArray[np.float32]
    anomalous: NDArray[np.float32]
    weights: NDArray[np.float64]

    @classmethod
    def pool(cls, score_maps: Arrays, masks: Arrays) -> Self:
        """Gather the pixels of all images, one buffer per class.

        Parameters
        ----------
        score_maps : sequence of (M, N) arrays, float
            Scores, larger is more anomalous; compared in single precision.
        masks : sequence of (M, N) arrays, bool
            True in anomalous pixels.

        Raises
        ------
        ImageError
            If lengths or shapes differ or a score is NaN.
        """
        check_pairs("score_maps", score_maps, "masks", masks)
        n_anomalous = sum(int(np.count_nonzero(mask)) for mask in masks)
        normal = np.empty(sum(np.size(mask) for mask in masks) - n_anomalous, dtype=np.float32)
        anomalous = np.empty(n_anomalous, dtype=np.float32)
        weights = np.empty(n_anomalous, dtype=np.float64)
        n, k, n_regions = 0, 0, 0
        for index, (score, mask) in enumerate(zip(score_maps, masks, strict=True)):
            truth = np.asarray(mask) != 0
            inside, outside = score[truth], score[~truth]
            if np.isnan(inside).any() or np.isnan(outside).any():
                raise ImageError(f"score_maps[{index}] must not hold NaN")
            regions, count = ndimage.label(truth, structure=EIGHT_NEIGHBOURS)
            normal[n : n + outside.size] = outside
            anomalous[k : k + inside.size] = inside
            weights[k : k + inside.size] = 1.0 / np.bincount(regions.ravel())[regions[truth]]
            n, k, n_regions = n + outside.size, k + inside.size, n_regions + count
        normal.sort()
        return cls(normal, anomalous, weights / max(n_regions, 1))

    def auroc(self) -> float:
        """Return the area under the ROC curve, 0 to 1; NaN if a class is empty."""
        return curve_area(self.normal, self.anomalous)

    def aupro(self, max_fpr: float) -> float:
        """Return the normalised area under the per-region-overlap curve up to `max_fpr`; NaN if a class is empty."""
        return curve_area(self.normal, self.anomalous, self.weights, max_fpr)

    def best_iou(self) -> tuple[float, float]:
        """Return the best pooled intersection over union and its threshold; NaN without an anomalous pixel."""
        if self.anomalous.size == 0:
            return math.nan, math.nan
        # Between two scores of anomalous pixels only false positives change: the best threshold is one of these scores.
        ascending = np.sort(self.anomalous)
        thresholds = np.unique(ascending)
        n_true = ascending.size - np.searchsorted(ascending, thresholds)
        n_false = self.normal.size - np.searchsorted(self.normal, thresholds)
        ratios = n_true / (ascending.size + n_false)
        best = int(np.argmax(ratios))
        return float(ratios[best]), float(thresholds[best])


def curve_area(
    normal: NDArray[Any], anomalous: NDArray[Any], weights: NDArray[np.float64] | None = None, max_fpr: float = 1.0
) -> float:
    """Return the normalised area under the (weighted) ROC curve up to a false positive rate.

    Parameters
    ----------
    normal : (n,) array, float
        Scores of normal items, ascending.
    anomalous : (m,) array, float
        Scores of anomalous items.
    weights : (m,) array, float, optional
        Weights of the anomalous items; they sum to 1.
    max_fpr : float
        False positive rate, above 0 and at most 1.

    Returns
    -------
    float
        0 to 1; NaN if a class is empty.

    Notes
    -----
    An anomalous item with ``a`` normal items above it and ``b`` at or above it adds a ramp to the curve that rises from
    false positive rate ``a / n`` to ``b / n``. The integral of each ramp has a closed form, so the area is exact and
    the curve is never computed.
    """
    if normal.size == 0 or anomalous.size == 0:
        return math.nan
    start = 1.0 - np.searchsorted(normal, anomalous, side="right") / normal.size
    end = 1.0 - np.searchsorted(normal, anomalous, side="left") / normal.size
    return ramp_area(start, end, weights, max_fpr)


def ramp_area(
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    max_fpr: float = 1.0,
) -> float:
    """Return the normalised area under a sum of ramps, each the share of one anomalous item in a ROC curve.

    Parameters
    ----------
    start, end : (m,) arrays, float
        False positive rates between which the ramp rises; equal for a step.
    weights, max_fpr
        As for :func:`curve_area`.

    Returns
    -------
    float
        0 to 1.
    """
    width = end - start
    on_ramp = np.clip(max_fpr, start, end) - start
    area = np.divide(on_ramp**2, 2.0 * width, out=np.zeros_like(width), where=width > 0.0)
    area += np.maximum(max_fpr - end, 0.0)
    # Rounding may raise a perfect score above 1.
    return min(1.0, float(np.average(area, weights=weights)) / max_fpr)


def check_pairs(name: str, arrays: Arrays, other_name: str, others: Arrays) -> None:
    """Raise :class:`ImageError` unless both sequences have the same number of (M, N) arrays of the same shapes."""
    if len(arrays) != len(others):
        raise ImageError(f"{name} and {other_name} must have the same length, got {len(arrays)} and {len(others)}")
    for index, (array, other) in enumerate(zip(arrays, others, strict=True)):
        if np.ndim(array) != 2 or np.shape(array) != np.shape(other):
            shapes = f"{np.shape(array)} and {np.shape(other)}"
            raise ImageError(f"{name}[{index}] and {other_name}[{index}] must have one shape (M, N), got {shapes}")
