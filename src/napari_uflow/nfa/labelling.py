"""Labels of the connected parts of a map below a threshold."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from napari_uflow.nfa.compiled import compiled
from napari_uflow.system.scratch import release_pages, strips

__all__ = ["StripLabels", "count_thresholds", "label_mask"]


def label_mask(
    log10_nfa_map: ArrayLike, log10_epsilon: float, connectivity: int = 2, *, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Label the connected parts of a map that are at or below a threshold, the most significant first.

    Parameters
    ----------
    log10_nfa_map : (M, N) array, float
        log10 NFA of every pixel, as from :func:`~napari_uflow.nfa.drawing.combine_levels`; NaN is background.
    log10_epsilon : float
        log10 of the accepted number of false alarms.
    connectivity : {1, 2}
        2 joins pixels that share a side or a corner (8 neighbours), 1 those that share a side (4 neighbours).
    out : (M, N) array, int32, optional
        Array to write the labels into; a new one by default.

    Returns
    -------
    (M, N) array, int32
        0 in the background, 1 ... n in order of the lowest log10 NFA inside; equal ones in order of their first pixel.

    Raises
    ------
    ValueError
        If the map is not two-dimensional or `connectivity` is neither 1 nor 2.

    See Also
    --------
    StripLabels : The same strip by strip, for large images.

    Examples
    --------
    >>> import numpy as np
    >>> label_mask(np.array([[-1.0, 2.0, 2.0], [2.0, 2.0, -3.0], [2.0, 2.0, -2.0]]), log10_epsilon=0.0)
    array([[2, 0, 0],
           [0, 0, 1],
           [0, 0, 1]], dtype=int32)
    """
    parts = StripLabels(log10_nfa_map, log10_epsilon, connectivity, out=out)
    for start, stop in strips(parts.labels.shape):
        parts.put(start, stop)
    parts.join()
    for start, stop in strips(parts.labels.shape):
        parts.renumber(start, stop)
    return parts.labels


class StripLabels:
    """Labels of a map, found in strips of rows from top to bottom; parts that meet at a border become one.

    Call :meth:`put` for all strips, :meth:`join` once, and :meth:`renumber` for all strips.

    Parameters
    ----------
    log10_nfa_map, log10_epsilon, connectivity, out
        As in :func:`label_mask`.

    Attributes
    ----------
    labels : (M, N) array, int32
        The labels, final in the rows that were renumbered.
    """

    def __init__(
        self,
        log10_nfa_map: ArrayLike,
        log10_epsilon: float,
        connectivity: int = 2,
        *,
        out: NDArray[np.int32] | None = None,
    ) -> None:
        self._values = np.asarray(log10_nfa_map)
        if self._values.ndim != 2:
            raise ValueError(f"log10_nfa_map must be a map (M, N), got shape {self._values.shape}")
        if connectivity not in (1, 2):
            raise ValueError(f"connectivity must be 1 or 2, got {connectivity}")
        self.labels = np.empty(self._values.shape, dtype=np.int32) if out is None else out
        self._log10_epsilon, self._connectivity = log10_epsilon, connectivity
        self._n_parts = 0
        self._lowest: list[NDArray[np.float64]] = [np.empty(0)]
        self._meeting = [np.empty((2, 0), dtype=np.int32)]
        self._number = np.zeros(1, dtype=np.int32)

    def put(self, start: int, stop: int) -> None:
        """Label rows `start` to `stop` - 1, which follow the rows labelled last."""
        strip = self.labels[start:stop]
        values = self._values[start:stop]
        structure = ndimage.generate_binary_structure(2, self._connectivity)
        n_new = ndimage.label(values <= self._log10_epsilon, structure, output=strip)
        self._lowest.append(_lowest_values(strip, np.ascontiguousarray(values), n_new))
        if self._n_parts:
            shifted = np.arange(self._n_parts, self._n_parts + n_new + 1, dtype=np.int32)
            shifted[0] = 0
            _relabel(strip, shifted)
        if start:
            self._meeting.append(_meeting(self.labels[start - 1], strip[0], self._connectivity))
        self._n_parts += n_new
        release_pages(self._values, self.labels)

    def join(self) -> None:
        """Join the parts that meet and order them by their lowest value."""
        # Parts are numbered by their first pixel, and so are joined parts by that of their first part.
        a, b = np.concatenate(self._meeting, axis=1)
        n = self._n_parts + 1
        joined = sparse.coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
        n_joined, whole = connected_components(joined, directed=False)
        lowest = np.full(n_joined, np.inf)
        np.minimum.at(lowest, whole[1:], np.concatenate(self._lowest))
        _, first = np.unique(whole, return_index=True)
        lowest[whole[0]] = -np.inf  # the background stays first
        rank = np.empty(n_joined, dtype=np.int32)
        rank[np.lexsort((first, lowest))] = np.arange(n_joined, dtype=np.int32)
        self._number = rank[whole]

    def renumber(self, start: int, stop: int) -> None:
        """Write the final labels of rows `start` to `stop` - 1."""
        _relabel(self.labels[start:stop], self._number)
        release_pages(self.labels)


def _meeting(above: NDArray[np.int32], below: NDArray[np.int32], connectivity: int) -> NDArray[np.int32]:
    """Return the pairs of labels (2, n) that touch between two rows (N,)."""
    pairs = [(above, below)]
    if connectivity == 2:
        pairs += [(above[1:], below[:-1]), (above[:-1], below[1:])]
    found = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
    return np.unique(found[:, (found > 0).all(axis=0)], axis=1)


def count_thresholds(log10_nfa_map: ArrayLike, highest: float, most: int = 100) -> list[float]:
    """Return the thresholds at which the number of connected parts of a map increases.

    Parameters
    ----------
    log10_nfa_map : (M, N) array, float
        log10 NFA of every position; NaN is background.
    highest : float
        Upper limit of the thresholds.
    most : int
        Largest number of thresholds to return.

    Returns
    -------
    list of float
        In increasing order: the smallest thresholds t for which ``label_mask(map, t)`` has at least 1, 2, ... labels.

    Examples
    --------
    >>> import numpy as np
    >>> count_thresholds(np.array([[-3.0, 2.0, -1.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]), highest=1.0)
    [-3.0, -1.0]
    """
    values = np.asarray(log10_nfa_map)
    structure = ndimage.generate_binary_structure(2, 2)
    thresholds: list[float] = []
    for threshold in np.unique(values[values <= highest]):
        n = ndimage.label(values <= threshold, structure)[1]
        thresholds += [float(threshold)] * (n - len(thresholds))
        if len(thresholds) >= most:
            break
    return thresholds[:most]


@compiled
def _lowest_values(labels: NDArray[np.int32], values: NDArray[np.floating], n: int) -> NDArray[np.float64]:
    lowest = np.full(n, np.inf)
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            label = labels[row, col]
            if label > 0 and values[row, col] < lowest[label - 1]:
                lowest[label - 1] = values[row, col]
    return lowest


@compiled
def _relabel(labels: NDArray[np.int32], rank: NDArray[np.int32]) -> None:
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            labels[row, col] = rank[labels[row, col]]
