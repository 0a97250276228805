"""Growth of regions on the grid of positions, from the strongest core of an object to its edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from napari_uflow.nfa.compiled import compiled
from napari_uflow.nfa.segment import LevelRegions

__all__ = ["HALF_MAXIMUM", "GrownRegions", "grow_regions"]

# Width of the halo of the smallest region, in positions.
_LEAST_HALO = 2.0
HALF_MAXIMUM = 0.5
"""Fraction of a region's own strength at which its growth ends: a blurred edge is where the signal falls to half."""


@dataclass(frozen=True, slots=True, eq=False)
class GrownRegions:
    """Regions of one level and their growth.

    Attributes
    ----------
    labels : (m, n) array, int32
        0 outside, r in positions of region r = 1 ... k after the growth. A position of an original region is in that
        region or in one that is more significant. A region that others took completely has no position left.
    cores : (m, n) array, int32
        The original regions.
    log10_nfa : (k,) array, float64
        log10 of the number of false alarms of region r at index r - 1, in increasing order.
    levels : (k,) array, float64
        Evidence at which the growth of region r ended, at index r - 1.
    """

    labels: NDArray[np.int32]
    cores: NDArray[np.int32]
    log10_nfa: NDArray[np.float64]
    levels: NDArray[np.float64]


def grow_regions(
    regions: LevelRegions,
    evidence: ArrayLike,
    *,
    normal_level: float,
    normal_median: float = 0.0,
    fraction: float = HALF_MAXIMUM,
) -> GrownRegions:
    """Grow regions through connected positions of high evidence.

    A region grows into positions, connected to it by sides, whose evidence is at least `normal_level` and at least
    `normal_median` plus `fraction` of the region's height, which is its highest evidence minus `normal_median`. Regions
    grow in order of significance, and a region takes positions of less significant ones that it reaches: what is inside
    the half-maximum outline of a strong object is part of that object.

    For every threshold, let U be the union of the regions whose NFA is at most the threshold. After the growth U
    contains the U before it, and has no more connected parts (by sides or corners): every grown region, together with
    what more significant regions took from it, is connected and contains the original. Therefore a promise about the
    number of false alarms remains valid.

    A region on the slope of a more significant one is its halo, and removed: the way up from its highest position leads
    into that one, and all of the original region lies closer to it than half of its half width. U then lacks it.

    Parameters
    ----------
    regions : LevelRegions
        Disjoint regions; each one connected by sides.
    evidence : (m, n) array, float
        Map that was tested, on one scale in all positions; NaN in positions that were not measured. No region grows
        into them.
    normal_level : float
        Evidence that few normal positions exceed, such as their .99 quantile in held-out images.
    normal_median : float
        Evidence of a typical normal position.
    fraction : float
        0 to 1; 1 grows into positions that are as high as the region's highest only.

    Returns
    -------
    GrownRegions

    Raises
    ------
    ValueError
        If the map and the labels differ in shape or `fraction` is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> core = LevelRegions(np.array([[0, 0, 1, 0, 0]], dtype=np.int32), np.array([-3.0]))
    >>> grow_regions(core, [[1.5, 3.0, 8.0, 5.0, 4.0]], normal_level=1.0).labels
    array([[0, 0, 1, 1, 1]], dtype=int32)
    """
    values = np.asarray(evidence)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    if values.shape != regions.labels.shape:
        raise ValueError(f"evidence and labels must have one shape, got {values.shape} and {regions.labels.shape}")
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be 0 to 1, got {fraction}")
    cores = np.ascontiguousarray(regions.labels, dtype=np.int32)
    values = np.ascontiguousarray(values)
    n_regions = regions.log10_nfa.size
    peaks = _highest(cores, values, n_regions)
    is_measured = np.isfinite(peaks)  # a region without a measured position does not grow
    half = normal_median + fraction * (np.where(is_measured, peaks, normal_median) - normal_median)
    levels = np.where(is_measured, np.maximum(normal_level, half), np.inf)
    labels = np.zeros_like(cores)
    _grow(cores, values, levels, labels)
    _remove_halos(labels, cores, values)
    return GrownRegions(labels, cores, regions.log10_nfa, levels)


def _remove_halos(labels: NDArray[np.int32], cores: NDArray[np.int32], values: NDArray[np.floating]) -> None:
    """Remove regions on the slope of more significant ones."""
    boxes = ndimage.find_objects(labels)
    for r in range(len(boxes), 1, -1):
        box = boxes[r - 1]
        if box is None:
            continue
        rows, cols = (slice(max(0, part.start - 1), part.stop + 1) for part in box)
        near, height = labels[rows, cols], np.nan_to_num(values[rows, cols], nan=-np.inf)
        own = near == r
        peak = np.unravel_index(np.argmax(np.where(own, height, -np.inf)), own.shape)
        beside = tuple(slice(max(0, at - 1), at + 2) for at in peak)
        is_above = (near[beside] > 0) & (near[beside] < r) & (height[beside] > height[peak])
        if not np.isfinite(height[peak]) or not is_above.any():
            continue
        other = int(near[beside][is_above][np.argmax(height[beside][is_above])])
        touched = ndimage.binary_dilation(own, np.ones((3, 3)))
        if np.isin(near[touched], (0, r, other)).sum() < touched.sum():  # it may connect others
            continue
        around = boxes[other - 1]
        rows, cols = (slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, around, strict=True))
        view = labels[rows, cols]
        half_width = ndimage.distance_transform_edt(np.pad(view == other, 1)).max()
        distance = ndimage.distance_transform_edt(view != other)
        core = (cores[rows, cols] == r) & (view == r)
        if core.any() and distance[core].max() <= max(_LEAST_HALO, 0.5 * half_width):
            view[view == r] = 0


@compiled
def _highest(labels: NDArray[np.int32], values: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    """Return the highest value in each of n regions, -inf without a measured one."""
    highest = np.full(n, -np.inf)
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            label = labels[row, col]
            if label > 0 and values[row, col] > highest[label - 1]:
                highest[label - 1] = values[row, col]
    return highest


@compiled
def _grow(
    cores: NDArray[np.int32], values: NDArray[np.floating], levels: NDArray[np.float64], out: NDArray[np.int32]
) -> None:
    """Write the grown labels into `out`, which is 0."""
    n_rows, n_cols = cores.shape
    n_regions = levels.size
    # Positions of each core, by counting sort.
    first = np.zeros(n_regions + 2, dtype=np.int64)
    for row in range(n_rows):
        for col in range(n_cols):
            if cores[row, col] > 0:
                first[cores[row, col] + 1] += 1
    for label in range(1, n_regions + 2):
        first[label] += first[label - 1]
    of_core = np.empty(first[n_regions + 1], dtype=np.int64)
    filled = first.copy()
    for row in range(n_rows):
        for col in range(n_cols):
            label = cores[row, col]
            if label > 0:
                of_core[filled[label]] = row * n_cols + col
                filled[label] += 1
    queue = np.empty(n_rows * n_cols, dtype=np.int64)
    for label in range(1, n_regions + 1):
        n_queued = 0
        for i in range(first[label], first[label + 1]):
            place = of_core[i]
            row = place // n_cols
            col = place - row * n_cols
            if out[row, col] == 0:  # otherwise a more significant region took it
                out[row, col] = label
                queue[n_queued] = place
                n_queued += 1
        n_done = 0
        while n_done < n_queued:
            place = queue[n_done]
            n_done += 1
            row = place // n_cols
            col = place - row * n_cols
            for side in range(4):
                near_row = row + (side == 0) - (side == 1)
                near_col = col + (side == 2) - (side == 3)
                if near_row < 0 or near_row >= n_rows or near_col < 0 or near_col >= n_cols:
                    continue
                if out[near_row, near_col] == 0 and values[near_row, near_col] >= levels[label - 1]:
                    out[near_row, near_col] = label
                    queue[n_queued] = near_row * n_cols + near_col
                    n_queued += 1
