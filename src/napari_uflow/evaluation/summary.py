"""Summary of all metrics of one detector on one set of images."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from napari_uflow.errors import ImageError
from napari_uflow.evaluation.metrics import (
    auroc,
    false_alarms_per_image,
    false_area_fraction,
    fraction_with_false_alarm,
    iou,
    mean_iou,
    regions_found,
)
from napari_uflow.evaluation.pixels import Arrays, Pixels, check_pairs

__all__ = ["Evaluation", "evaluate_maps"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All metrics of one detector on one set of images; NaN if undefined for the set.

    Attributes
    ----------
    n_normal, n_anomalous : int
        Number of normal and anomalous images.
    n_true_regions : int
        Number of true regions, in the anomalous images with a mask.
    image_auroc, pixel_auroc, aupro : float
        Ranking of images and pixels by the heatmap, independent of the threshold; `aupro` up to 30 % false positives.
    iou, mean_iou : float
        Intersection over union, 0 to 1, of the detected mask: pooled over all images, and averaged over anomalous ones.
    oracle_iou : float
        Pooled `iou` of the best fixed threshold, chosen with the truth.
    region_recall : float
        Fraction of true regions that the detected mask touches.
    false_alarms_per_image, fraction_with_false_alarm, false_area_fraction : float
        Detected mask on normal images: regions per image, fraction of images with any region, fraction of pixels.
    """

    n_normal: int
    n_anomalous: int
    n_true_regions: int
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
        """Return the metrics by name, with None for NaN, for JSON."""
        return {key: None if math.isnan(value) else value for key, value in asdict(self).items()}

    def as_table(self, name: str) -> str:
        """Return a plain-text table with the heading `name` and a dash for NaN."""
        rows = [(label, getattr(self, name), form, self._counted(name)) for label, name, form in _TABLE_ROWS]
        lines = [
            f"{label:<40}{'-' if math.isnan(value) else format(value, form):>9}{counts}"
            for label, value, form, counts in rows
        ]
        head = f"{name}: {self.n_normal} normal, {self.n_anomalous} anomalous"
        return "\n".join([head, "-" * max(49, len(head)), *lines])

    def _counted(self, name: str) -> str:
        """Return the numbers behind a fraction, " (3 of 12)"; "" for a metric that is none of images or regions."""
        totals = {"region_recall": self.n_true_regions, "fraction_with_false_alarm": self.n_normal}
        total = totals.get(name, 0)
        return f"  ({round(getattr(self, name) * total)} of {total})" if total else ""


_TABLE_ROWS = (
    ("image AUROC", "image_auroc", ".3f"),
    ("pixel AUROC", "pixel_auroc", ".3f"),
    ("AUPRO (false positive rate up to 0.3)", "aupro", ".3f"),
    ("IoU, detected mask, all images", "iou", ".3f"),
    ("IoU, detected mask, mean over anomalous", "mean_iou", ".3f"),
    ("IoU, best fixed threshold (oracle)", "oracle_iou", ".3f"),
    ("true regions detected", "region_recall", ".1%"),
    ("false alarms per normal image", "false_alarms_per_image", ".2f"),
    ("normal images with a false alarm", "fraction_with_false_alarm", ".1%"),
    ("area detected on normal images", "false_area_fraction", ".3%"),
)


def evaluate_maps(
    scores: Arrays,
    masks: Arrays,
    labels: Arrays,
    *,
    image_scores: ArrayLike | None = None,
    is_anomalous: ArrayLike | None = None,
) -> Evaluation:
    """Evaluate score maps and detected regions of a set of images.

    Parameters
    ----------
    scores : sequence of (M, N) arrays, float
        Scores, larger is more anomalous; ``-log10_nfa`` ranks by the number of false alarms.
    masks : sequence of (M, N) arrays, bool
        True in anomalous pixels; all False for a normal image.
    labels : sequence of (M, N) arrays, int or bool
        Detected regions, 0 is background.
    image_scores : (n,) array, float, optional
        One score per image; by default the maximum of its map.
    is_anomalous : (n,) array, bool, optional
        True for anomalous images; by default those with a mask that is not empty. An anomalous image with an empty mask
        (truth known for the whole image only) is used for `image_auroc` only.

    Returns
    -------
    Evaluation
        All metrics.

    Raises
    ------
    ImageError
        If lengths or shapes differ, a score is NaN, or a normal image has a mask that is not empty.
    """
    check_pairs("scores", scores, "masks", masks)
    check_pairs("labels", labels, "masks", masks)
    has_mask = np.array([np.any(mask) for mask in masks], dtype=bool)
    anomalous = has_mask if is_anomalous is None else np.asarray(is_anomalous).ravel() != 0
    if anomalous.size != has_mask.size:
        raise ImageError(f"is_anomalous must have one value per image, got {anomalous.size} for {has_mask.size}")
    if np.any(has_mask & ~anomalous):
        raise ImageError(f"image {int(np.argmax(has_mask & ~anomalous))} is normal but its mask is not empty")
    if image_scores is None:
        image_scores = [float(np.max(score)) for score in scores]
    known = np.flatnonzero(has_mask | ~anomalous).tolist()
    truth = [masks[i] for i in known]
    found = [labels[i] for i in known]
    on_normal = [labels[i] for i in np.flatnonzero(~anomalous).tolist()]
    n_found, n_true = regions_found(found, truth)
    pixels = Pixels.pool([scores[i] for i in known], truth)
    return Evaluation(
        n_normal=int(np.count_nonzero(~anomalous)),
        n_anomalous=int(np.count_nonzero(anomalous)),
        n_true_regions=n_true,
        image_auroc=auroc(image_scores, anomalous),
        pixel_auroc=pixels.auroc(),
        aupro=pixels.aupro(0.3),
        iou=iou(found, truth) if has_mask.any() else math.nan,
        mean_iou=mean_iou(found, truth),
        oracle_iou=pixels.best_iou()[0],
        region_recall=n_found / n_true if n_true else math.nan,
        false_alarms_per_image=false_alarms_per_image(on_normal),
        fraction_with_false_alarm=fraction_with_false_alarm(on_normal),
        false_area_fraction=false_area_fraction(on_normal),
    )
