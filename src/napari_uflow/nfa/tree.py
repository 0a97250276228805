"""Best regions of a map: all connected upper level sets in one pass, without storing their tree."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.compiled import compiled

__all__ = ["MaxTree", "best_regions"]

# A third of a second of work.
_PIXELS_PER_CHUNK = 2**20


class _Slots(NamedTuple):
    """Union-find arrays (n,); entry k describes the component created by the k-th pixel in descending order of level.

    Slot k is a node of the tree if a pixel of a lower level absorbs it, and only a part of a node if one of the same
    level does. In both cases `up[k] > k` is the slot that absorbed it, so descending slots are the top-down order of
    the tree.
    """

    pixels: NDArray[np.int64]
    levels: NDArray[np.floating]
    weights: NDArray[np.float64]
    root: NDArray[np.int32]
    up: NDArray[np.int32]
    is_part: NDArray[np.bool_]
    area: NDArray[np.int32]
    # Of the children while a slot grows; of the node itself once it is closed.
    n_children: NDArray[np.uint8]  # 2 stands for 2 or more
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

    The 4-connected components of {order >= t}, for all t, form the max-tree of the map: with decreasing t a region
    grows by single pixels or plateaus, and two or more regions join at a bifurcation. The value of a region is its
    number of independent pixels, ``1 + (area - 1) / correlation_area``, times the weight at the minimum of `order`
    inside it. Low values win:

    - on a chain without bifurcation only the region of lowest value stays (the smallest of them if equal);
    - a bifurcation replaces the regions it joins if its value is not above the lowest of theirs and none of them
      contains a bifurcation that refused; otherwise it refuses, they stay, and no region below can replace them.

    Pixels of equal `order` enter together, so the result does not depend on the order of the scan.

    Parameters
    ----------
    order : (M, N) array, float
        Score of each pixel, higher is more anomalous; +-inf are allowed. NaN pixels are in no region and connect none.
    log10_weight : (M, N) array, float64
        Value per pixel of area, a function of `order`: pixels of equal order have equal weights. NaN as in `order`.
    cut : float, optional
        Only pixels with order > cut are used. If all other pixels have weights >= 0 and the weight does not rise with
        `order`, the regions of value below 0 are the same with and without it.
    correlation_area : float
        Number of pixels, 1 or more, that count as one independent pixel.

    Returns
    -------
    labels : (M, N) array, int32
        0 outside, r inside region r = 1 ... n. Regions are numbered by value, lowest first, then by first pixel.
    log10_value : (n,) array, float64
        Value of region r at index r - 1.

    Raises
    ------
    ValueError
        If the maps are not two-dimensional or differ in shape.

    See Also
    --------
    MaxTree : The same in chunks, for large maps.

    References
    ----------
    Tailanian, M., Pardo, A., Musé, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y (the region test).
    Najman, L., Couprie, M. (2006). Building the component tree in quasi-linear time. IEEE Trans. Image Process. 15(11),
    3531-3539. doi:10.1109/TIP.2006.877518 (union-find, Algorithm 1).

    Examples
    --------
    The centre of a plateau of four pixels wins: 4 x (-2) is below 1 x (-3), and below all five pixels, 5 x (-1).

    >>> import numpy as np
    >>> order = np.array([[0.0, 2.0, 0.0], [2.0, 3.0, 1.0], [0.0, 2.0, 0.0]])
    >>> labels, log10_value = best_regions(order, -order)
    >>> labels
    array([[0, 1, 0],
           [1, 1, 0],
           [0, 1, 0]], dtype=int32)
    >>> log10_value
    array([-8.])
    """
    tree = MaxTree(order, log10_weight, cut=cut, correlation_area=correlation_area)
    while not tree.is_complete:
        tree.grow()
    return tree.best_regions()


class MaxTree:
    """Max-tree of a map that grows in chunks of pixels, so that a job can report progress or stop in between.

    Parameters
    ----------
    order, log10_weight, cut, correlation_area
        As in :func:`best_regions`.

    Raises
    ------
    ValueError
        If the maps are not two-dimensional or differ in shape.
    """

    def __init__(
        self,
        order: NDArray[np.floating],
        log10_weight: NDArray[np.float64],
        *,
        cut: float | None = None,
        correlation_area: float = 1.0,
    ) -> None:
        order = np.asarray(order)
        if not np.issubdtype(order.dtype, np.floating):
            order = order.astype(np.float64)
        log10_weight = np.asarray(log10_weight, dtype=np.float64)
        if order.ndim != 2 or order.shape != log10_weight.shape:
            raise ValueError(
                f"order and log10_weight must be maps of one shape (M, N), got {order.shape} and {log10_weight.shape}"
            )
        self._shape = (order.shape[0], order.shape[1])
        levels = order.ravel()
        weights = log10_weight.ravel()
        is_used = ~np.isnan(weights)
        is_used &= ~np.isnan(levels) if cut is None else levels > cut
        pixels = np.flatnonzero(is_used)
        pixels = pixels[np.argsort(-levels[pixels])]
        n = pixels.size
        self._slots = _Slots(
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
        self._labels = np.zeros(order.size, dtype=np.int32)
        self._per_pixel = 1 / correlation_area
        self._n_grown = 0

    @property
    def is_complete(self) -> bool:
        """True if all pixels have been added."""
        return self._n_grown == self._slots.pixels.size

    def grow(self, n_pixels: int = _PIXELS_PER_CHUNK) -> None:
        """Add the next `n_pixels` pixels in descending order."""
        start, self._n_grown = self._n_grown, min(self._n_grown + n_pixels, self._slots.pixels.size)
        _grow(self._slots, start, self._n_grown, *self._shape, self._labels, self._per_pixel)

    def best_regions(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return labels and values as :func:`best_regions` does, once the tree is complete; it is used up by that."""
        log10_value, first = _choose(self._slots, self._labels, self._per_pixel)
        by_value = np.lexsort((first, log10_value))
        rank = np.zeros(by_value.size + 1, dtype=np.int32)
        rank[by_value + 1] = np.arange(1, by_value.size + 1, dtype=np.int32)
        return rank[self._labels].reshape(self._shape), log10_value[by_value]


@compiled
def _find(root: NDArray[np.int32], slot: int) -> int:
    """Return the newest slot of the component and halve the path to it."""
    while root[slot] != slot:
        root[slot] = root[root[slot]]
        slot = root[slot]
    return slot


@compiled
def _grow(
    slots: _Slots, start: int, stop: int, height: int, width: int, labels: NDArray[np.int32], per_pixel: float
) -> None:
    """Add pixels `start` to `stop` - 1; `labels` (M N,) hold slot + 1 of added pixels and 0 of others."""
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
    """Overwrite `labels` with the regions that stay, once all pixels were added; return values and first pixels."""
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
    """Replace the summary of the children of slot k by its own, once all its pixels were added."""
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
