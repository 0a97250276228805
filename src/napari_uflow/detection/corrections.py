"""Corrections: regions that the user marked normal."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from napari_uflow.detection.detect import resegment
from napari_uflow.detection.maps import LEAST_BACKGROUND
from napari_uflow.detection.result import Detection
from napari_uflow.errors import ConfigError
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion

__all__ = ["Correction", "mark_normal", "undo_mark_normal"]


@dataclass(frozen=True, eq=False)
class Correction:
    """Reported region that the user marked normal.

    Attributes
    ----------
    normal : NormalRegion
        Region with its surroundings, for training.
    rows, cols : (n,) array, int64
        Pixels of the region.
    log10_nfa : (n,) array, float32
        Their log10 NFA before the correction.
    """

    normal: NormalRegion
    rows: NDArray[np.int64] = field(repr=False)
    cols: NDArray[np.int64] = field(repr=False)
    log10_nfa: NDArray[np.float32] = field(repr=False)


def mark_normal(
    detection: Detection, label: int, plane: Plane, *, side: int, specimen: str | None = None
) -> tuple[Detection, Correction]:
    """Remove a region from a detection and return it as a normal region for training.

    The region is not reported for any number of false alarms; the heatmap does not change.

    Parameters
    ----------
    detection : Detection
        Detection that contains the region.
    label : int
        Label of the region.
    plane : Plane
        Image of the detection.
    side : int
        Side of the surroundings used for training, in pixels: the tile of the model. Other regions in them are
        excluded.
    specimen : str, optional
        Specimen of the image; derived from the name of the plane by default.

    Returns
    -------
    detection : Detection
        Detection without the region.
    correction : Correction
        Removed region, for :func:`undo_mark_normal` and for training.

    Raises
    ------
    ConfigError
        If the label does not exist, or the shapes of image and detection differ.
    """
    if plane.shape != detection.labels.shape:
        raise ConfigError(f"'{plane.title}' has {plane.shape} pixels, but '{detection.name}' {detection.labels.shape}")
    rows, cols = np.nonzero((detection.labels == label) & (detection.labels > 0))
    if not len(rows):
        raise ConfigError(f"'{detection.name}' has no region {label}; its regions are 1 to {len(detection.regions)}")
    box = tuple(
        _around(int(places.min()), int(places.max()) + 1, side, n)
        for places, n in zip((rows, cols), plane.shape, strict=True)
    )
    mask = np.zeros(plane.shape, dtype=bool)
    mask[box] = (detection.labels[box] == 0) | (detection.labels[box] == label)
    log10_nfa = detection.log10_nfa.copy()
    background = max(LEAST_BACKGROUND, float(np.nanmax(log10_nfa)))
    correction = Correction(
        NormalRegion(plane, mask, specimen, is_marked_normal=True), rows, cols, log10_nfa[rows, cols]
    )
    log10_nfa[rows, cols] = background
    return _changed(detection, log10_nfa, 1), correction


def undo_mark_normal(detection: Detection, correction: Correction) -> Detection:
    """Return the detection with a region restored that :func:`mark_normal` removed."""
    log10_nfa = detection.log10_nfa.copy()
    log10_nfa[correction.rows, correction.cols] = correction.log10_nfa
    return _changed(detection, log10_nfa, -1)


def _changed(detection: Detection, log10_nfa: NDArray[np.float32], n: int) -> Detection:
    changed = replace(detection, log10_nfa=log10_nfa, n_marked_normal=detection.n_marked_normal + n)
    return resegment(changed, detection.false_alarms)


def _around(first: int, stop: int, side: int, n: int) -> slice:
    """Return a part of an axis of n pixels centred on a region, as long as the region but at least `side`."""
    length = min(max(side, stop - first), n)
    start = min(max((first + stop - length) // 2, 0), n - length)
    return slice(start, start + length)
