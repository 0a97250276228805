"""Bootstrap of detection metrics over test images, from counts per image: a resample is a sum.

The scores of pixels are counted in bins, image by image. The bounds of the bins are scores of the pooled pixels, many
of them among the highest, so that areas and overlaps differ from the exact ones in the fourth digit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_uflow.evaluation.metrics import auroc
from napari_uflow.evaluation.pixels import EIGHT_NEIGHBOURS, Pixels, ramp_area

__all__ = ["Tally", "count_pixels", "image_metrics", "interval", "pixel_metrics", "resamples"]

Tally = Mapping[str, NDArray[Any]]
"""Arrays whose first axis is the test image.

``is_anomalous``; ``score`` and, of a method with regions, ``score_nfa``; ``normal``, ``anomalous`` and ``regions``
(n, bins), the pixels of each class and the true regions by score; ``n_regions``; of a method with masks ``both`` and
``either``, pixels in mask and truth, and ``found`` (n, accepted numbers), detected regions.
"""


def count_pixels(
    pixels: Pixels, scores: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> dict[str, NDArray[Any]]:
    """Count the pixels of each image by score.

    Parameters
    ----------
    pixels : Pixels
        Pixels of all images, which determine the bins.
    scores, masks : sequence of (M, N) arrays
        Score and truth of each image.

    Returns
    -------
    dict
        The arrays ``normal``, ``anomalous``, ``regions`` and ``n_regions`` of a :data:`Tally`.
    """
    tail = 1.0 - np.logspace(-2.5, -6, 500)
    levels = np.concatenate([np.linspace(0.0, 1.0, 1001), tail])
    normal_bounds = pixels.normal[(levels * (pixels.normal.size - 1)).astype(np.intp)]
    bounds = np.unique(np.concatenate([normal_bounds, np.quantile(pixels.anomalous, np.linspace(0.0, 1.0, 1001))]))
    bounds = bounds.astype(np.float32)
    n_bins = bounds.size + 1
    counts: dict[str, list[Any]] = {"normal": [], "anomalous": [], "regions": [], "n_regions": []}
    for score, mask in zip(scores, masks, strict=True):
        regions, n_regions = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
        inside = np.searchsorted(bounds, score[mask], side="right")
        outside = np.searchsorted(bounds, score[~mask], side="right")
        weights = 1.0 / np.bincount(regions.ravel())[regions[mask]]
        counts["normal"].append(np.bincount(outside, minlength=n_bins))
        counts["anomalous"].append(np.bincount(inside, minlength=n_bins))
        counts["regions"].append(np.bincount(inside, weights=weights, minlength=n_bins))
        counts["n_regions"].append(n_regions)
    types = {"normal": np.uint32, "anomalous": np.uint32, "regions": np.float32, "n_regions": np.uint32}
    return {name: np.array(counts[name], dtype) for name, dtype in types.items()}


def resamples(is_anomalous: NDArray[np.bool_], n: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Yield how often each image is drawn, with replacement from the images of its class."""
    rng = np.random.default_rng(seed)
    classes = [np.flatnonzero(is_anomalous == which) for which in (False, True)]
    for _ in range(n):
        drawn = np.concatenate([rng.choice(images, images.size) for images in classes])
        yield np.bincount(drawn, minlength=is_anomalous.size)


def image_metrics(tally: Tally, times: NDArray[np.intp]) -> dict[str, float]:
    """Return the metrics of whole images, each image counted so many times."""
    is_anomalous = np.repeat(tally["is_anomalous"], times)
    found = {
        name: auroc(np.repeat(tally[key], times), is_anomalous)
        for name, key in (("image AUROC", "score"), ("image AUROC by NFA", "score_nfa"))
        if key in tally
    }
    if "found" in tally:
        normal = np.repeat(tally["found"], times, axis=0)[~is_anomalous]
        for i, accepted in enumerate(tally["accepted"]):
            found[f"false alarms at {accepted:g}"] = float(normal[:, i].mean())
            found[f"normal images with any at {accepted:g}"] = float((normal[:, i] > 0).mean())
    return found


def pixel_metrics(tally: Tally, times: NDArray[np.intp]) -> dict[str, float]:
    """Return the metrics of pixels, each image counted so many times; none without masks of the truth."""
    if "normal" not in tally:
        return {}
    # Numbers of pixels in and above each bin.
    normal, anomalous = (np.cumsum((times @ tally[key])[::-1])[::-1] for key in ("normal", "anomalous"))
    above = np.append(normal[1:], 0)
    rates = above / normal[0], normal / normal[0]
    found = {
        "pixel AUROC": ramp_area(*rates, (times @ tally["anomalous"]) / anomalous[0]),
        "AUPRO": ramp_area(*rates, (times @ tally["regions"]) / (times @ tally["n_regions"]), max_fpr=0.3),
        "oracle IoU": float(np.max(anomalous / (anomalous[0] + normal))),
    }
    if "both" in tally:
        either = times @ tally["either"]
        found["mask IoU"] = float(times @ tally["both"] / either) if either else math.nan
        found["mask IoU / oracle IoU"] = found["mask IoU"] / found["oracle IoU"]
    return found


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the bounds of the 95 % interval of bootstrapped values."""
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
