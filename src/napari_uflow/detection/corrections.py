"""What the user knows better: a region that was reported and is normal."""

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
    """A region that was reported and is normal.

    Attributes
    ----------
    normal : NormalRegion
        The region with its surroundings, to train on.
    rows, cols : (n,) array, int64
        The region's pixels.
    log10_nfa : (n,) array, float32
        What their number of false alarms was.
    """

    normal: NormalRegion
    rows: NDArray[np.int64] = field(repr=False)
    cols: NDArray[np.int64] = field(repr=False)
    log10_nfa: NDArray[np.float32] = field(repr=False)


def mark_normal(
    detection: Detection, label: int, plane: Plane, *, side: int, specimen: str | None = None
) -> tuple[Detection, Correction]:
    """Take a region out of a detection, and return with it what can be trained on.

    No number of false alarms brings the region back; the heatmap stays as it is.

    Parameters
    ----------
    detection : Detection
        What was found.
    label : int
        The region's label in it.
    plane : Plane
        The image it was found in.
    side : int
        Side of the surroundings that are trained on with the region, in pixels: the model's tile. Where they touch
        other regions, these are left out.
    field : str, optional
        Name of the field that the image comes from; the plane's name by default.

    Raises
    ------
    ConfigError
        If there is no such region, or the image has another size.
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
    """Return a detection with a region as it was before :func:`mark_normal`."""
    log10_nfa = detection.log10_nfa.copy()
    log10_nfa[correction.rows, correction.cols] = correction.log10_nfa
    return _changed(detection, log10_nfa, -1)


def _changed(detection: Detection, log10_nfa: NDArray[np.float32], n: int) -> Detection:
    changed = replace(detection, log10_nfa=log10_nfa, n_marked_normal=detection.n_marked_normal + n)
    return resegment(changed, detection.false_alarms)


def _around(first: int, stop: int, side: int, n: int) -> slice:
    """Return a part of an axis of n pixels with a region in its middle, `side` long if the region is not longer."""
    length = min(max(side, stop - first), n)
    start = min(max((first + stop - length) // 2, 0), n - length)
    return slice(start, start + length)
