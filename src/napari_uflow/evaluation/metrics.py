"""How good a detector is: rank metrics of score maps, overlap of masks, false alarms on normal images.

Score maps are ``(M, N)``, larger is more anomalous; truth masks are ``(M, N)`` boolean, empty for a normal image. The
images of a set may differ in size. A number that the data cannot give (one class only, no region) is NaN, never an
exception; images that do not fit together raise :class:`~napari_uflow.errors.ImageError`.

No metric here scans a grid of thresholds. Each needs, for every anomalous pixel, only the number of normal pixels that
score higher: the normal pixels are sorted once, in 4 bytes each, and all values are exact, ties included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_uflow.errors import ConfigError, ImageError

__all__ = [
    "Evaluation",
    "aupro",
    "auroc",
    "evaluate_maps",
    "false_alarms_per_image",
    "false_area_fraction",
    "fraction_with_false_alarm",
    "iou",
    "mean_iou",
    "oracle_iou",
    "pixel_auroc",
    "region_recall",
]

Arrays = Sequence[NDArray[Any]]
_EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve: the chance that an anomalous item scores higher than a normal one.

    Parameters
    ----------
    scores : array_like of float, shape (n,)
        Larger is more anomalous; a tie counts one half. Infinite values are allowed, NaN is not.
    labels : array_like of bool, shape (n,)
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
    return _curve_area(np.sort(values[~anomalous]), values[anomalous])


def pixel_auroc(score_maps: Arrays, masks: Arrays) -> float:
    """Area under the ROC curve over the pixels of all images together.

    Parameters
    ----------
    score_maps : sequence of float ndarray, each (M, N)
        Larger is more anomalous; compared in single precision.
    masks : sequence of bool ndarray, each (M, N)
        True on anomalous pixels.

    Returns
    -------
    float
        In [0, 1]; NaN if all pixels are of one class.

    Raises
    ------
    ImageError
        If lengths or shapes differ or a score is NaN.
    """
    pixels = _pool(score_maps, masks)
    return _curve_area(pixels.normal, pixels.anomalous)


def aupro(score_maps: Arrays, masks: Arrays, max_fpr: float = 0.3) -> float:
    """Area under the per-region-overlap curve, normalised to [0, 1].

    The curve gives the found fraction of a true region (8-connected), averaged over regions so that a small one counts
    as much as a large one, against the fraction of normal pixels that are flagged. As in the reference code of MVTec
    AD, equal scores pass the threshold together and points are joined by straight lines.

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

    Notes
    -----
    An anomalous pixel with ``a`` normal pixels above it and ``b`` at or above it adds to the curve a ramp that rises
    from false positive rate ``a / n`` to ``b / n``. The integral of each ramp is known in closed form, so the area is
    exact and the curve itself is never built.

    References
    ----------
    P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger (2021). The MVTec Anomaly Detection Dataset. IJCV 129,
    1038-1059, DOI 10.1007/s11263-020-01400-4, section 5.2.
    """
    if not 0.0 < max_fpr <= 1.0:
        raise ConfigError(f"max_fpr must be in (0, 1], got {max_fpr}")
    pixels = _pool(score_maps, masks)
    return _curve_area(pixels.normal, pixels.anomalous, pixels.weights, max_fpr)


def oracle_iou(score_maps: Arrays, masks: Arrays) -> tuple[float, float]:
    """Best intersection over union that any one threshold for all images could reach.

    Parameters
    ----------
    score_maps, masks
        As for :func:`pixel_auroc`.

    Returns
    -------
    best : float
        Intersection over union, pooled over all images, at that threshold; NaN without an anomalous pixel.
    threshold : float
        A pixel is flagged where the score, in single precision, is at or above it.

    Raises
    ------
    ImageError
        If lengths or shapes differ or a score is NaN.
    """
    return _oracle(_pool(score_maps, masks))


def iou(pred: Arrays, truth: Arrays) -> float:
    """Intersection over union, pooled over all images (false alarms on normal images enter the union).

    Parameters
    ----------
    pred : sequence of bool or int ndarray, each (M, N)
        Flagged where not 0: a mask or region labels.
    truth : sequence of bool ndarray, each (M, N)
        True on anomalous pixels.

    Returns
    -------
    float
        In [0, 1]; NaN if nothing is flagged and nothing is true.

    Raises
    ------
    ImageError
        If lengths or shapes differ.
    """
    _check_pairs("pred", pred, "truth", truth)
    counts = [_overlap(p, t) for p, t in zip(pred, truth, strict=True)]
    return _ratio(sum(both for both, _ in counts), sum(either for _, either in counts))


def mean_iou(pred: Arrays, truth: Arrays) -> float:
    """Intersection over union of each anomalous image, averaged; parameters and errors as for :func:`iou`.

    Returns
    -------
    float
        In [0, 1]; NaN without an anomalous image.
    """
    _check_pairs("pred", pred, "truth", truth)
    return _mean([_ratio(*_overlap(p, t)) for p, t in zip(pred, truth, strict=True) if np.any(t)])


def region_recall(labels: Arrays, truth: Arrays, min_overlap: float = 0.0) -> float:
    """Fraction of the true regions (8-connected) that were hit.

    Parameters
    ----------
    labels : sequence of bool or int ndarray, each (M, N)
        Flagged where not 0.
    truth : sequence of bool ndarray, each (M, N)
        True on anomalous pixels.
    min_overlap : float
        Fraction of a true region that must be flagged, in [0, 1]; at 0 a single pixel is enough.

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
    if not 0.0 <= min_overlap <= 1.0:
        raise ConfigError(f"min_overlap must be in [0, 1], got {min_overlap}")
    _check_pairs("labels", labels, "truth", truth)
    n_hit = n_regions = 0
    for flagged, mask in zip(labels, truth, strict=True):
        regions, _ = ndimage.label(np.asarray(mask) != 0, structure=_EIGHT_NEIGHBOURS)
        size = np.bincount(regions.ravel())[1:]
        found = np.bincount(regions[np.asarray(flagged) != 0], minlength=size.size + 1)[1:]
        n_hit += int(np.count_nonzero((found > 0) & (found >= min_overlap * size)))
        n_regions += size.size
    return _ratio(n_hit, n_regions)


def false_alarms_per_image(labels: Arrays) -> float:
    """Mean number of regions on normal images.

    Parameters
    ----------
    labels : sequence of int or bool ndarray, each (M, N)
        Region labels of *normal* images, 0 is background. The 8-connected parts of a boolean mask are counted.

    Returns
    -------
    float
        NaN without an image.
    """
    return _mean([_n_regions(regions) for regions in labels])


def fraction_with_false_alarm(labels: Arrays) -> float:
    """Return the fraction of normal images with any flag, NaN without one; see :func:`false_alarms_per_image`."""
    return _mean([bool(np.any(regions)) for regions in labels])


def false_area_fraction(labels: Arrays) -> float:
    """Return the flagged fraction of normal images' pixels, NaN without one; see :func:`false_alarms_per_image`."""
    n_flagged = sum(int(np.count_nonzero(regions)) for regions in labels)
    return _ratio(n_flagged, sum(np.size(regions) for regions in labels))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All numbers about one detector on one set of images; NaN where the set cannot tell.

    Attributes
    ----------
    n_normal, n_anomalous : int
        Images.
    image_auroc, pixel_auroc, aupro : float
        How well scores rank images and pixels, whatever the threshold; `aupro` up to 30 % false positives.
    iou, mean_iou : float
        Automatic mask against truth: pooled over all images, and averaged over anomalous images.
    oracle_iou : float
        The pooled `iou` that the best fixed threshold would reach, chosen with the truth in hand.
    region_recall : float
        Fraction of true regions that the automatic mask touches.
    false_alarms_per_image, fraction_with_false_alarm, false_area_fraction : float
        Automatic mask on normal images: regions per image, images with any region, pixels.
    """

    n_normal: int
    n_anomalous: int
    image_auroc: float
    pixel_auroc: float
    aupro: float
    iou: float
    mean_iou: float
    oracle_iou: float
    region_recall: float
    false_alarms_per_image: float
    fraction_with_false_alarm: float
    false_area_fraction: float

    def to_dict(self) -> dict[str, int | float | None]:
        """Return the numbers by name, None for NaN, ready for JSON."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}

    def as_table(self, name: str) -> str:
        """Return a plain-text table headed by `name`, a dash for NaN."""
        rows = [(label, getattr(self, name), form) for label, name, form in _TABLE_ROWS]
        lines = [f"{label:<40}{'-' if math.isnan(value) else format(value, form):>9}" for label, value, form in rows]
        head = f"{name}: {self.n_normal} normal, {self.n_anomalous} anomalous"
        return "\n".join([head, "-" * max(49, len(head)), *lines])


_TABLE_ROWS = (
    ("image AUROC", "image_auroc", ".3f"),
    ("pixel AUROC", "pixel_auroc", ".3f"),
    ("AUPRO (false positive rate up to 0.3)", "aupro", ".3f"),
    ("IoU, automatic mask, all images", "iou", ".3f"),
    ("IoU, automatic mask, mean over anomalous", "mean_iou", ".3f"),
    ("IoU, best fixed threshold (oracle)", "oracle_iou", ".3f"),
    ("true regions hit", "region_recall", ".1%"),
    ("false alarms per normal image", "false_alarms_per_image", ".2f"),
    ("normal images with a false alarm", "fraction_with_false_alarm", ".1%"),
    ("area flagged on normal images", "false_area_fraction", ".3%"),
)


def evaluate_maps(
    scores: Arrays,
    masks: Arrays,
    labels: Arrays,
    *,
    image_scores: ArrayLike | None = None,
    is_anomalous: ArrayLike | None = None,
) -> Evaluation:
    """Evaluate score maps and the automatic segmentation of a set of images.

    Parameters
    ----------
    scores : sequence of float ndarray, each (M, N)
        Larger is more anomalous (give ``-log10_nfa`` to rank by the number of false alarms).
    masks : sequence of bool ndarray, each (M, N)
        Truth; empty for a normal image.
    labels : sequence of int or bool ndarray, each (M, N)
        The automatic segmentation: region labels, 0 is background.
    image_scores : array_like of float, shape (n,), optional
        One score per image; by default the maximum of its map.
    is_anomalous : array_like of bool, shape (n,), optional
        Which images are anomalous; by default those with a mask that is not empty. An anomalous image with an empty
        mask (truth known for the whole image only) takes part in `image_auroc` and in nothing else.

    Returns
    -------
    Evaluation
        All numbers.

    Raises
    ------
    ImageError
        If lengths or shapes differ, a score is NaN, or an image said to be normal has a mask.
    """
    _check_pairs("scores", scores, "masks", masks)
    _check_pairs("labels", labels, "masks", masks)
    has_mask = np.array([np.any(mask) for mask in masks], dtype=bool)
    anomalous = has_mask if is_anomalous is None else np.asarray(is_anomalous).ravel() != 0
    if anomalous.size != has_mask.size:
        raise ImageError(f"is_anomalous must have one value per image, got {anomalous.size} for {has_mask.size}")
    if np.any(has_mask & ~anomalous):
        raise ImageError(
            f"image {int(np.argmax(has_mask & ~anomalous))} is said to be normal but its mask is not empty"
        )
    if image_scores is None:
        image_scores = [float(np.max(score)) for score in scores]
    known = np.flatnonzero(has_mask | ~anomalous).tolist()
    truth = [masks[i] for i in known]
    found = [labels[i] for i in known]
    on_normal = [labels[i] for i in np.flatnonzero(~anomalous).tolist()]
    pixels = _pool([scores[i] for i in known], truth)
    return Evaluation(
        n_normal=int(np.count_nonzero(~anomalous)),
        n_anomalous=int(np.count_nonzero(anomalous)),
        image_auroc=auroc(image_scores, anomalous),
        pixel_auroc=_curve_area(pixels.normal, pixels.anomalous),
        aupro=_curve_area(pixels.normal, pixels.anomalous, pixels.weights, 0.3),
        iou=iou(found, truth) if has_mask.any() else math.nan,
        mean_iou=mean_iou(found, truth),
        oracle_iou=_oracle(pixels)[0],
        region_recall=region_recall(found, truth),
        false_alarms_per_image=false_alarms_per_image(on_normal),
        fraction_with_false_alarm=fraction_with_false_alarm(on_normal),
        false_area_fraction=false_area_fraction(on_normal),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """The pixels of a set of images, by class.

    Attributes
    ----------
    normal : float32 ndarray, (n_normal,)
        Scores of normal pixels, ascending.
    anomalous : float32 ndarray, (n_anomalous,)
        Scores of anomalous pixels.
    weights : float64 ndarray, (n_anomalous,)
        1 / (size of the pixel's true region * number of regions); they sum to 1.
    """

    normal: NDArray[np.float32]
    anomalous: NDArray[np.float32]
    weights: NDArray[np.float64]


def _pool(score_maps: Arrays, masks: Arrays) -> _Pixels:
    """Gather the pixels of all images, in one buffer per class, and sort the normal ones."""
    _check_pairs("score_maps", score_maps, "masks", masks)
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
        regions, count = ndimage.label(truth, structure=_EIGHT_NEIGHBOURS)
        normal[n : n + outside.size] = outside
        anomalous[k : k + inside.size] = inside
        weights[k : k + inside.size] = 1.0 / np.bincount(regions.ravel())[regions[truth]]
        n, k, n_regions = n + outside.size, k + inside.size, n_regions + count
    normal.sort()
    return _Pixels(normal, anomalous, weights / max(n_regions, 1))


def _curve_area(
    normal: NDArray[Any], anomalous: NDArray[Any], weights: NDArray[np.float64] | None = None, max_fpr: float = 1.0
) -> float:
    """Normalised area under the (weighted) ROC curve up to `max_fpr`; `normal` is ascending, `weights` sum to 1."""
    if normal.size == 0 or anomalous.size == 0:
        return math.nan
    start = 1.0 - np.searchsorted(normal, anomalous, side="right") / normal.size
    end = 1.0 - np.searchsorted(normal, anomalous, side="left") / normal.size
    width = end - start
    on_ramp = np.clip(max_fpr, start, end) - start
    area = np.divide(on_ramp**2, 2.0 * width, out=np.zeros_like(width), where=width > 0.0)
    area += np.maximum(max_fpr - end, 0.0)
    # Rounding may carry a perfect score past 1.
    return min(1.0, float(np.average(area, weights=weights)) / max_fpr)


def _oracle(pixels: _Pixels) -> tuple[float, float]:
    """Return the best pooled intersection over union and its threshold."""
    if pixels.anomalous.size == 0:
        return math.nan, math.nan
    # Between two scores of anomalous pixels only false positives change: the best threshold is one of these scores.
    ascending = np.sort(pixels.anomalous)
    thresholds = np.unique(ascending)
    n_true = ascending.size - np.searchsorted(ascending, thresholds)
    n_false = pixels.normal.size - np.searchsorted(pixels.normal, thresholds)
    ratios = n_true / (ascending.size + n_false)
    best = int(np.argmax(ratios))
    return float(ratios[best]), float(thresholds[best])


def _overlap(pred: NDArray[Any], truth: NDArray[Any]) -> tuple[int, int]:
    """Return the pixels in both masks and in either."""
    p, t = np.asarray(pred) != 0, np.asarray(truth) != 0
    return int(np.count_nonzero(p & t)), int(np.count_nonzero(p | t))


def _n_regions(labels: NDArray[Any]) -> int:
    if labels.dtype == np.bool_:
        return int(ndimage.label(labels, structure=_EIGHT_NEIGHBOURS)[1])
    return int(np.unique(labels[labels != 0]).size)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _check_pairs(name: str, arrays: Arrays, other_name: str, others: Arrays) -> None:
    """Raise :class:`ImageError` unless both hold as many (M, N) arrays of the same shapes."""
    if len(arrays) != len(others):
        raise ImageError(f"{name} and {other_name} must be as many, got {len(arrays)} and {len(others)}")
    for index, (array, other) in enumerate(zip(arrays, others, strict=True)):
        if np.ndim(array) != 2 or np.shape(array) != np.shape(other):
            shapes = f"{np.shape(array)} and {np.shape(other)}"
            raise ImageError(f"{name}[{index}] and {other_name}[{index}] must have one shape (M, N), got {shapes}")
