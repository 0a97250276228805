"""The best regions of a map: all connected upper level sets in one pass, without building their tree."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.compiled import compiled
from napari_uflow.progress import Pieces, at_once

__all__ = ["best_regions", "best_regions_in_pieces"]

# Between two pauses: a third of a second.
_PIXELS_AT_ONCE = 2**20


class _Slots(NamedTuple):
    """What is known of each slot, all of them arrays (n,).

    Slot k belongs to the k-th pixel in descending order of level and stands for the region that this pixel has made of
    its neighbours. It is a node once a pixel of a lower level takes it in, or a mere part of a node if one of the same
    level does. Either way `up[k] > k` is the slot that took it in, so that descending order of slots is top-down order
    of the tree.
    """

    pixels: NDArray[np.int64]
    levels: NDArray[np.floating]
    weights: NDArray[np.float64]
    root: NDArray[np.int32]
    up: NDArray[np.int32]
    is_part: NDArray[np.bool_]
    area: NDArray[np.int32]
    # Of the children while a slot grows; of the node itself once it is closed.
    n_children: NDArray[np.uint8]  # 2 stands for more
    is_open: NDArray[np.bool_]
    best: NDArray[np.int32]
    best_value: NDArray[np.float64]


def best_regions(
    order: NDArray[np.floating],
    log10_weight: NDArray[np.float64],
    *,
    cut: float | None = None,
    correlation_area: float = 1.0,
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Choose disjoint regions among all connected sets of pixels above a level.

    The 4-connected components of {order >= t}, for all t, form a tree (the max-tree): going down, a region grows by
    single pixels or plateaus, and two or more regions join at a bifurcation. The value of a region is its number of
    independent pixels, ``1 + (area - 1) / correlation_area``, times the weight at the minimum of `order` inside it. Low
    values win:

    - along a chain without bifurcation only the region of lowest value stays (the smallest of them if equal);
    - a bifurcation replaces the regions it joins if its value is not above the lowest of theirs and none of them stands
      on a bifurcation that refused; otherwise it refuses, they stay, and nothing below it can replace them.

    Pixels of equal `order` enter together, so the result does not depend on the order of the scan.

    Parameters
    ----------
    order : (M, N) array, float
        Higher is more anomalous; +-inf are allowed. NaN pixels are in no region and connect nothing.
    log10_weight : (M, N) array, float64
        Value per pixel of area; a function of `order` (pixels with equal order have equal weight). NaN as in `order`.
    cut
        Only pixels with order > cut are looked at. If all other pixels have weights >= 0 and the weight does not rise
        with `order`, the regions of value below 0 are the same with and without it.
    correlation_area
        Pixels, 1 or more, that together count as one more independent pixel.

    Returns
    -------
    labels : (M, N) array, int32
        0 outside, r inside region r = 1 ... n. Regions are numbered by value, lowest first, then by first pixel.
    log10_value : (n,) array, float64
        The value of region r at index r - 1.

    Raises
    ------
    ValueError
        If the maps are not two-dimensional or differ in shape.

    References
    ----------
    Tailanian, M., Pardo, A., Muse, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y (the region test).
    Najman, L., Couprie, M. (2006). Building the component tree in quasi-linear time. IEEE Trans. Image Process.
    doi:10.1109/TIP.2006.877518 (union-find).

    Examples
    --------
    >>> import numpy as np
    >>> order = np.array([[9.0, 1.0, 8.0]])
    >>> best_regions(order, -order)
    (array([[1, 0, 2]], dtype=int32), array([-9., -8.]))
    """
    return at_once(best_regions_in_pieces(order, log10_weight, cut=cut, correlation_area=correlation_area))


def best_regions_in_pieces(
    order: NDArray[np.floating],
    log10_weight: NDArray[np.float64],
    *,
    cut: float | None = None,
    correlation_area: float = 1.0,
) -> Pieces[tuple[NDArray[np.int32], NDArray[np.float64]]]:
    """Choose regions as `best_regions` does, with pauses in large maps."""
    order = np.asarray(order)
    if not np.issubdtype(order.dtype, np.floating):
        order = order.astype(np.float64)
    log10_weight = np.asarray(log10_weight, dtype=np.float64)
    if order.ndim != 2 or order.shape != log10_weight.shape:
        raise ValueError(
            f"order and log10_weight must be two maps of one shape (M, N), got {order.shape} and {log10_weight.shape}"
        )
    height, width = order.shape
    levels = order.ravel()
    weights = log10_weight.ravel()
    looked_at = ~np.isnan(weights)
    looked_at &= ~np.isnan(levels) if cut is None else levels > cut
    pixels = np.flatnonzero(looked_at)
    pixels = pixels[np.argsort(-levels[pixels])]
    yield
    n = pixels.size
    slots = _Slots(
        pixels=pixels,
        levels=levels[pixels],
        weights=weights[pixels],
        root=np.arange(n, dtype=np.int32),
        up=np.full(n, -1, dtype=np.int32),
        is_part=np.zeros(n, dtype=np.bool_),
        area=np.ones(n, dtype=np.int32),
        n_children=np.zeros(n, dtype=np.uint8),
        is_open=np.ones(n, dtype=np.bool_),
        best=np.arange(n, dtype=np.int32),
        best_value=np.full(n, np.inf),
    )
    labels, per_pixel = np.zeros(height * width, dtype=np.int32), 1 / correlation_area
    for start in range(0, n, _PIXELS_AT_ONCE):
        _grow(slots, start, min(start + _PIXELS_AT_ONCE, n), height, width, labels, per_pixel)
        yield
    log10_value, first = _choose(slots, labels, per_pixel)
    yield
    by_value = np.lexsort((first, log10_value))
    rank = np.zeros(by_value.size + 1, dtype=np.int32)
    rank[by_value + 1] = np.arange(1, by_value.size + 1, dtype=np.int32)
    return rank[labels].reshape(height, width), log10_value[by_value]


@compiled
def _find(root: NDArray[np.int32], slot: int) -> int:
    """Newest slot of the component, halving the path on the way."""
    while root[slot] != slot:
        root[slot] = root[root[slot]]
        slot = root[slot]
    return slot


@compiled
def _grow(
    slots: _Slots, start: int, stop: int, height: int, width: int, labels: NDArray[np.int32], per_pixel: float
) -> None:
    """Let pixels in, from `start` to before `stop`; `labels` hold slot + 1 of those that are in, 0 of others."""
    for k in range(start, stop):
        pixel = slots.pixels[k]
        row = pixel // width
        col = pixel - row * width
        for side in range(4):
            if side == 0 and row > 0:
                near = labels[pixel - width]
            elif side == 1 and col > 0:
                near = labels[pixel - 1]
            elif side == 2 and col < width - 1:
                near = labels[pixel + 1]
            elif side == 3 and row < height - 1:
                near = labels[pixel + width]
            else:
                near = 0
            if near == 0:
                continue
            child = _find(slots.root, near - 1)
            if child == k:
                continue
            slots.root[child] = k
            slots.up[child] = k
            slots.area[k] += slots.area[child]
            if slots.levels[child] == slots.levels[k]:
                slots.is_part[child] = True
                n_new = slots.n_children[child]
            else:
                _close(slots, child, per_pixel)
                n_new = 1
            if n_new > 0:
                if slots.n_children[k] == 0 or slots.best_value[child] < slots.best_value[k]:
                    slots.best[k] = slots.best[child]
                    slots.best_value[k] = slots.best_value[child]
                slots.is_open[k] &= slots.is_open[child]
                slots.n_children[k] = min(2, slots.n_children[k] + n_new)
        labels[pixel] = k + 1


@compiled
def _choose(
    slots: _Slots, labels: NDArray[np.int32], per_pixel: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Fill `labels` with the regions that stay, when all pixels are in; return their values and first pixels."""
    n = slots.pixels.size
    for k in range(n):
        if slots.up[k] < 0:
            _close(slots, k, per_pixel)

    # Top-down: an open node that is a root, or whose parent is not open, hands its best descendant out as a region.
    node = slots.root  # of each slot; the components are no longer needed
    label = np.zeros(n, dtype=np.int32)
    n_regions = 0
    for k in range(n - 1, -1, -1):
        if slots.is_part[k]:
            node[k] = node[slots.up[k]]
        else:
            node[k] = k
            if slots.is_open[k] and (slots.up[k] < 0 or not slots.is_open[node[slots.up[k]]]):
                n_regions += 1
                label[slots.best[k]] = n_regions
        if label[k] == 0 and slots.up[k] >= 0:
            label[k] = label[slots.up[k]]
    value = np.empty(n_regions)
    first = np.full(n_regions, labels.size)
    for k in range(n):
        if not slots.is_part[k] and slots.is_open[k] and (slots.up[k] < 0 or not slots.is_open[node[slots.up[k]]]):
            value[label[slots.best[k]] - 1] = slots.best_value[k]
        labels[slots.pixels[k]] = label[k]
        if label[k] > 0 and slots.pixels[k] < first[label[k] - 1]:
            first[label[k] - 1] = slots.pixels[k]
    return value, first


@compiled
def _close(slots: _Slots, k: int, per_pixel: float) -> None:
    """Turn what slot k knows of its children into what it is itself; all its pixels are in."""
    value = (1 + (slots.area[k] - 1) * per_pixel) * slots.weights[k]
    if slots.n_children[k] == 0:
        replaces = True
    elif slots.n_children[k] == 1:
        replaces = value < slots.best_value[k]
    else:
        replaces = value <= slots.best_value[k]
        slots.is_open[k] &= replaces
    if replaces:
        slots.best[k] = k
        slots.best_value[k] = value
