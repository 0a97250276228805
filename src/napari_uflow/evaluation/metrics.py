"""Metrics of a detector: ranks of score maps, overlap of masks, false alarms on normal images.

Score maps are ``(M, N)``, larger is more anomalous; truth masks are ``(M, N)`` boolean, empty for a normal image. The
images of a set may differ in size. A number that is undefined for the data (one class only, no region) is NaN, never an
exception; images that do not fit together raise :class:`~napari_uflow.errors.ImageError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_uflow.errors import ConfigError, ImageError
from napari_uflow.evaluation.pixels import EIGHT_NEIGHBOURS, Arrays, Pixels, check_pairs, curve_area

__all__ = [
    "aupro",
    "auroc",
    "false_alarms_per_image",
    "false_area_fraction",
    "fraction_with_false_alarm",
    "iou",
    "mean_iou",
    "oracle_iou",
    "pixel_auroc",
    "region_recall",
    "regions_found",
]


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the probability that an anomalous item scores higher than a normal one.

    Parameters
    ----------
    scores : (n,) array, float
        Scores, larger is more anomalous; a tie counts one half. Infinite values are allowed, NaN is not.
    labels : (n,) array, bool
        True for anomalous items.

    Returns
    -------
    float
        In [0, 1]; NaN if one of the two classes is empty.

    Raises
    ------
    ImageError
        If the lengths differ or a score is NaN.
    """
    values = np.asarray(scores, dtype=np.float64).ravel()
    anomalous = np.asarray(labels).ravel() != 0
    if values.size != anomalous.size:
        raise ImageError(f"scores and labels must have one length, got {values.size} and {anomalous.size}")
    if np.isnan(values).any():
        raise ImageError("scores must not be NaN")
    return curve_area(np.sort(values[~anomalous]), values[anomalous])


def pixel_auroc(score_maps: Arrays, masks: Arrays) -> float:
    """Area under the ROC curve over the pixels of all images together.

    Parameters
    ----------
    score_maps : sequence of (M, N) arrays, float
        Scores, larger is more anomalous; compared in single precision.
    masks : sequence of (M, N) arrays, bool
        True in anomalous pixels.

    Returns
    -------
    float
        In [0, 1]; NaN if all pixels are of one class.

    Raises
    ------
    ImageError
        If lengths or shapes differ or a score is NaN.
    """
    return Pixels.pool(score_maps, masks).auroc()


def aupro(score_maps: Arrays, masks: Arrays, max_fpr: float = 0.3) -> float:
    """Area under the per-region-overlap curve, normalised to [0, 1].

    The curve is the detected fraction of a true region (8-connected), averaged over regions with equal weights, against
    the fraction of normal pixels above the threshold. As in the reference code of MVTec AD, equal scores pass the
    threshold together and points are joined by straight lines.

    Parameters
    ----------
    score_maps, masks
        As for :func:`pixel_auroc`.
    max_fpr : float
        False positive rate up to which the curve is integrated, in (0, 1].

    Returns
    -------
    float
        Area divided by `max_fpr`; NaN without a true region or without a normal pixel.

    Raises
    ------
    ConfigError
        If `max_fpr` is out of range.
    ImageError
        If lengths or shapes differ or a score is NaN.

    References
    ----------
    Bergmann, P., Batzner, K., Fauser, M., Sattlegger, D., Steger, C. (2021). The MVTec Anomaly Detection Dataset. IJCV
    129, 1038-1059. doi:10.1007/s11263-020-01400-4 (section 5.2).
    """
    if not 0.0 < max_fpr <= 1.0:
        raise ConfigError(f"max_fpr must be in (0, 1], got {max_fpr}")
    return Pixels.pool(score_maps, masks).aupro(max_fpr)


def oracle_iou(score_maps: Arrays, masks: Arrays) -> tuple[float, float]:
    """Best intersection over union of any single threshold for all images.

    Parameters
    ----------
    score_maps, masks
        As for :func:`pixel_auroc`.

    Returns
    -------
    best : float
        Intersection over union, pooled over all images, at that threshold; NaN without an anomalous pixel.
    threshold : float
        Pixels with a score, in single precision, at or above it are detected.

    Raises
    ------
    ImageError
        If lengths or shapes differ or a score is NaN.
    """
    return Pixels.pool(score_maps, masks).best_iou()


def iou(pred: Arrays, truth: Arrays) -> float:
    """Intersection over union, pooled over all images; false alarms on normal images enter the union.

    Parameters
    ----------
    pred : sequence of (M, N) arrays, bool or int
        Detected mask or labels; not 0 in detected pixels.
    truth : sequence of (M, N) arrays, bool
        True in anomalous pixels.

    Returns
    -------
    float
        In [0, 1]; NaN if no pixel is detected or anomalous.

    Raises
    ------
    ImageError
        If lengths or shapes differ.
    """
    check_pairs("pred", pred, "truth", truth)
    counts = [_overlap(p, t) for p, t in zip(pred, truth, strict=True)]
    return _ratio(sum(both for both, _ in counts), sum(either for _, either in counts))


def mean_iou(pred: Arrays, truth: Arrays) -> float:
    """Intersection over union, averaged over anomalous images; parameters and errors as for :func:`iou`.

    Returns
    -------
    float
        In [0, 1]; NaN without an anomalous image.
    """
    check_pairs("pred", pred, "truth", truth)
    return _mean([_ratio(*_overlap(p, t)) for p, t in zip(pred, truth, strict=True) if np.any(t)])


def region_recall(labels: Arrays, truth: Arrays, min_overlap: float = 0.0) -> float:
    """Fraction of the true regions (8-connected) that were detected.

    Parameters
    ----------
    labels : sequence of (M, N) arrays, bool or int
        Detected mask or labels; not 0 in detected pixels.
    truth : sequence of (M, N) arrays, bool
        True in anomalous pixels.
    min_overlap : float
        Fraction of a true region, 0 to 1, that must be detected; at 0 a single pixel is enough.

    Returns
    -------
    float
        In [0, 1]; NaN without a true region.

    Raises
    ------
    ConfigError
        If `min_overlap` is out of range.
    ImageError
        If lengths or shapes differ.
    """
    return _ratio(*regions_found(labels, truth, min_overlap))


def regions_found(labels: Arrays, truth: Arrays, min_overlap: float = 0.0) -> tuple[int, int]:
    """Return how many true regions (8-connected) were detected, and how many there are.

    Parameters, errors
        As for :func:`region_recall`.
    """
    if not 0.0 <= min_overlap <= 1.0:
        raise ConfigError(f"min_overlap must be in [0, 1], got {min_overlap}")
    check_pairs("labels", labels, "truth", truth)
    n_hit = n_regions = 0
    for flagged, mask in zip(labels, truth, strict=True):
        regions, _ = ndimage.label(np.asarray(mask) != 0, structure=EIGHT_NEIGHBOURS)
        size = np.bincount(regions.ravel())[1:]
        found = np.bincount(regions[np.asarray(flagged) != 0], minlength=size.size + 1)[1:]
        n_hit += int(np.count_nonzero((found > 0) & (found >= min_overlap * size)))
        n_regions += size.size
    return n_hit, n_regions


def false_alarms_per_image(labels: Arrays) -> float:
    """Mean number of regions on normal images.

    Parameters
    ----------
    labels : sequence of (M, N) arrays, int or bool
        Region labels of *normal* images, 0 is background. The 8-connected parts of a boolean mask are counted.

    Returns
    -------
    float
        NaN without an image.
    """
    return _mean([_n_regions(regions) for regions in labels])


def fraction_with_false_alarm(labels: Arrays) -> float:
    """Return the fraction of normal images with any region; as for :func:`false_alarms_per_image`."""
    return _mean([bool(np.any(regions)) for regions in labels])


def false_area_fraction(labels: Arrays) -> float:
    """Return the detected fraction of the pixels of normal images; as for :func:`false_alarms_per_image`."""
    n_flagged = sum(int(np.count_nonzero(regions)) for regions in labels)
    return _ratio(n_flagged, sum(np.size(regions) for regions in labels))


def _overlap(pred: NDArray[Any], truth: NDArray[Any]) -> tuple[int, int]:
    """Return the numbers of pixels in both masks and in either."""
    p, t = np.asarray(pred) != 0, np.asarray(truth) != 0
    return int(np.count_nonzero(p & t)), int(np.count_nonzero(p | t))


def _n_regions(labels: NDArray[Any]) -> int:
    if labels.dtype == np.bool_:
        return int(ndimage.label(labels, structure=EIGHT_NEIGHBOURS)[1])
    return int(np.unique(labels[labels != 0]).size)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
