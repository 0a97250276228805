"""From maps of surprise to regions: one level at a time, then all levels on the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, sparse
from scipy.sparse.csgraph import connected_components

from napari_uflow.nfa.compiled import compiled
from napari_uflow.nfa.counts import LOG10_BETA, log10_tests_published
from napari_uflow.nfa.significance import chernoff_log10_tail
from napari_uflow.nfa.tree import best_regions, best_regions_in_pieces
from napari_uflow.progress import Pieces, at_once
from napari_uflow.system.scratch import let_go, strips

__all__ = [
    "LevelRegions",
    "combine_levels",
    "combine_levels_in_pieces",
    "count_thresholds",
    "label_mask",
    "label_mask_in_pieces",
    "published_regions",
    "significant_regions",
    "significant_regions_in_pieces",
]

# An image pixel keeps its nearest position's label (or background) while that has this share of the bilinear weight.
# 1/2 gives the smoothest outlines but leaves 61 % of the area of a region of one position, 1/4 gives plain blocks.
# 0.4 leaves 85 %, moves no straight border, and rounds outer and inner corners alike (by 0.04 positions each).
_KEEP_SHARE = 0.4
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True, slots=True, eq=False)
class LevelRegions:
    """The regions of one level of the flow.

    Attributes
    ----------
    labels : (M, N) array, int32
        0 outside, r inside region r = 1 ... n.
    log10_nfa : (n,) array, float64
        log10 of the number of false alarms of region r at index r - 1, in increasing order.
    """

    labels: NDArray[np.int32]
    log10_nfa: NDArray[np.float64]

    def log10_nfa_map(self, background: float = np.nan) -> NDArray[np.float64]:
        """Spread the values of the regions over their positions.

        Parameters
        ----------
        background
            Value of positions in no region.

        Returns
        -------
        (M, N) array, float64
            log10 NFA of the region that each position lies in.
        """
        return np.concatenate([[background], self.log10_nfa])[self.labels]


def significant_regions(
    log10_p: NDArray[np.floating], log10_n_tests: float, correlation_area: float = 1.0
) -> LevelRegions:
    """Disjoint regions of one level with their size-conditional number of false alarms.

    The value of a region R is log10 NFA(R) = log10_n_tests + |R| * (max_R log10_p + LOG10_BETA). Only positions with
    p < 1 / BETA = 0.246 are looked at; no other one lies in a region whose NFA is below the log10_n_tests, so for every
    threshold below the log10_n_tests the result is that of the whole map.

    Parameters
    ----------
    log10_p : (M, N) array, float
        log10 of the probability, where normal, of an energy at least as high as the one seen; 0 or NaN where the
        position was not measured. Equal values are one grey level.
    log10_n_tests
        First term of the formula, `log10_tests_for_any_size` of the level.
    correlation_area
        Positions over which the map is correlated where normal, 1 or more. A region of |R| positions then counts as
        1 + (|R| - 1) / correlation_area of them: a single one has its own probability whatever its neighbours do.

    Returns
    -------
    LevelRegions
        All regions, significant or not: a threshold on `log10_nfa` is applied afterwards and changes no region.

    Raises
    ------
    ValueError
        If `log10_p` is not two-dimensional.

    Notes
    -----
    If the positions are independent where normal, the expected number of regions with NFA < epsilon is at most
    epsilon: a union bound over all sizes (which share epsilon), positions and shapes. See README.md of this folder.
    """
    return at_once(significant_regions_in_pieces(log10_p, log10_n_tests, correlation_area))


def significant_regions_in_pieces(
    log10_p: NDArray[np.floating], log10_n_tests: float, correlation_area: float = 1.0
) -> Pieces[LevelRegions]:
    """Find regions as `significant_regions` does, with pauses in large maps."""
    weight = np.asarray(log10_p, dtype=np.float64) + LOG10_BETA
    labels, log10_value = yield from best_regions_in_pieces(-weight, weight, cut=0.0, correlation_area=correlation_area)
    return LevelRegions(labels, log10_n_tests + log10_value)


def published_regions(
    energies: Sequence[NDArray[np.floating]], n_channels: Sequence[int], one_sided: bool = True
) -> list[LevelRegions]:
    """Regions of all levels by the published test: Chernoff's bound and one log10_n_tests for regions of every size.

    Parameters
    ----------
    energies : sequence of (M_l, N_l) arrays, float
        Mean of z squared over the channels of each level, 1 on average where normal; NaN where not measured.
    n_channels
        Number of channels of each level.
    one_sided
        True looks at energies above 1 only, where the bound holds. False reproduces the published code, which flags
        latents that are too normal.

    Returns
    -------
    list of LevelRegions
        One per level; all with the log10_n_tests of all levels together.

    Raises
    ------
    ValueError
        If the two sequences differ in length or are empty, or a map is not two-dimensional.

    References
    ----------
    Tailanian, M., Pardo, A., Muse, P. (2024). U-Flow: A U-shaped Normalizing Flow for Anomaly Detection with
    Unsupervised Threshold. J. Math. Imaging Vis. doi:10.1007/s10851-024-01193-y
    """
    if len(energies) != len(n_channels):
        raise ValueError(f"energies and n_channels must be as many, got {len(energies)} and {len(n_channels)}")
    log10_n_tests = log10_tests_published([np.asarray(energy).size for energy in energies])
    levels = []
    for energy, channels in zip(energies, n_channels, strict=True):
        weight = chernoff_log10_tail(energy, channels, one_sided=one_sided)
        labels, log10_value = best_regions(energy, weight, cut=1.0 if one_sided else None)
        levels.append(LevelRegions(labels, log10_n_tests + log10_value))
    return levels


def combine_levels(
    levels: Sequence[LevelRegions],
    strides: Sequence[int],
    shape: tuple[int, int],
    *,
    background: float,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Draw the regions of all levels on the image; where they overlap, the lowest log10 NFA is kept.

    Position (i, j) of a level covers the image's rows i * stride ... (i + 1) * stride - 1 and the like in columns.
    Outlines are smoothed by the bilinear weights of the four positions around a pixel (half-pixel geometry,
    `align_corners=False`): a pixel has the label of its nearest position, background included, unless that label has
    less than 0.4 of the weight; then it has the label of most weight.

    Parameters
    ----------
    levels
        Regions of each level.
    strides
        Image pixels per position of each level, at least 1.
    shape
        Rows and columns (M, N) of the image. A level may stick out of it below and on the right (padding).
    background
        Value of pixels in no region, and the largest value of any other, such as the highest log10 number of tests of the levels.
    out
        Array of this shape to draw into, written over; a new one by default.

    Returns
    -------
    (M, N) array, float32
        log10 NFA; finite.

    Raises
    ------
    ValueError
        If the sequences differ in length, a stride is below 1, or a level does not reach the image's border.

    Notes
    -----
    No region vanishes from its own level: the central pixels of a position have at least 0.56 of its weight. A region
    of one position keeps 4 of 4, 12 of 16 and 52 of 64 pixels at strides 2, 4 and 8, and 85 % in the limit. Inner
    corners get back what outer ones lose, so larger regions without holes lose no more in all than one position does.
    """
    return at_once(combine_levels_in_pieces(levels, strides, shape, background=background, out=out))


def combine_levels_in_pieces(
    levels: Sequence[LevelRegions],
    strides: Sequence[int],
    shape: tuple[int, int],
    *,
    background: float,
    out: NDArray[np.float32] | None = None,
) -> Pieces[NDArray[np.float32]]:
    """Draw the regions of all levels as `combine_levels` does, strip by strip, with a pause behind each."""
    if len(levels) != len(strides):
        raise ValueError(f"levels and strides must be as many, got {len(levels)} and {len(strides)}")
    for level, stride in zip(levels, strides, strict=True):
        if stride < 1:
            raise ValueError(f"strides must be at least 1, got {stride}")
        rows, cols = level.labels.shape
        if rows * stride < shape[0] or cols * stride < shape[1]:
            raise ValueError(f"a level of {rows} x {cols} positions of {stride} pixels does not cover {shape}")
    out = np.empty(shape, dtype=np.float32) if out is None else out
    values = [np.maximum(level.log10_nfa, _LOWEST).astype(np.float32) for level in levels]
    for start, stop in strips(shape):
        out[start:stop] = background
        for level, of_level, stride in zip(levels, values, strides, strict=True):
            if of_level.size > 0:
                _draw_regions(np.ascontiguousarray(level.labels), of_level, stride, start, out[start:stop])
        let_go(out)
        yield
    return out


def label_mask(
    log10_nfa_map: ArrayLike, log10_epsilon: float, connectivity: int = 2, *, out: NDArray[np.int32] | None = None
) -> NDArray[np.int32]:
    """Label the connected parts of a map that are at or below a threshold, the most significant first.

    Parameters
    ----------
    log10_nfa_map : (M, N) array, float
        log10 NFA of every pixel, as from `combine_levels`; NaN is background.
    log10_epsilon
        log10 of the number of false alarms that is allowed.
    connectivity
        2 joins pixels that share a side or a corner (8 neighbours), 1 those that share a side (4 neighbours).
    out
        Array of the map's shape to write the labels into; a new one by default.

    Returns
    -------
    (M, N) array, int32
        0 in the background, 1 ... n in order of the lowest log10 NFA inside; equal ones in order of their first pixel.

    Raises
    ------
    ValueError
        If the map is not two-dimensional or `connectivity` is neither 1 nor 2.
    """
    return at_once(label_mask_in_pieces(log10_nfa_map, log10_epsilon, connectivity, out=out))


def label_mask_in_pieces(
    log10_nfa_map: ArrayLike, log10_epsilon: float, connectivity: int = 2, *, out: NDArray[np.int32] | None = None
) -> Pieces[NDArray[np.int32]]:
    """Label a map as `label_mask` does, strip by strip, with a pause behind each; parts that meet are one."""
    values = np.asarray(log10_nfa_map)
    if values.ndim != 2:
        raise ValueError(f"log10_nfa_map must be a map (M, N), got shape {values.shape}")
    if connectivity not in (1, 2):
        raise ValueError(f"connectivity must be 1 or 2, got {connectivity}")
    labels = np.empty(values.shape, dtype=np.int32) if out is None else out
    structure = ndimage.generate_binary_structure(2, connectivity)
    n = 0
    lowest_of_parts: list[NDArray[np.float64]] = []
    meeting = [np.empty((2, 0), dtype=np.int32)]
    for start, stop in strips(labels.shape):
        part = labels[start:stop]
        n_new = ndimage.label(values[start:stop] <= log10_epsilon, structure, output=part)
        lowest_of_parts.append(_lowest_values(part, np.ascontiguousarray(values[start:stop]), n_new))
        if n:
            _relabel(part, np.concatenate(([0], np.arange(n + 1, n + n_new + 1))).astype(np.int32))
        if start:
            meeting.append(_meeting(labels[start - 1], part[0], connectivity))
        n += n_new
        let_go(values, labels)
        yield
    # Parts are numbered by their first pixel, and so is what they make up by its first part.
    a, b = np.concatenate(meeting, axis=1)
    joined = sparse.coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n + 1, n + 1))
    n_joined, whole = connected_components(joined, directed=False)
    lowest = np.full(n_joined, np.inf)
    np.minimum.at(lowest, whole[1:], np.concatenate([*lowest_of_parts, []]))
    _, first = np.unique(whole, return_index=True)
    lowest[whole[0]] = -np.inf  # the background stays first
    rank = np.empty(n_joined, dtype=np.int32)
    rank[np.lexsort((first, lowest))] = np.arange(n_joined, dtype=np.int32)
    number = rank[whole]
    for start, stop in strips(labels.shape):
        _relabel(labels[start:stop], number)
        let_go(labels)
        yield
    return labels


def _meeting(above: NDArray[np.int32], below: NDArray[np.int32], connectivity: int) -> NDArray[np.int32]:
    """Return the pairs of labels, (2, n), that touch where two rows meet."""
    pairs = [(above, below)]
    if connectivity == 2:
        pairs += [(above[1:], below[:-1]), (above[:-1], below[1:])]
    found = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
    return np.unique(found[:, (found > 0).all(axis=0)], axis=1)


def count_thresholds(log10_nfa_map: ArrayLike, highest: float, most: int = 100) -> list[float]:
    """Return the thresholds at which a map has one, two, three ... connected parts.

    Parameters
    ----------
    log10_nfa_map : (M, N) array, float
        log10 NFA of every position; NaN is background.
    highest
        Thresholds above this are not looked at.
    most
        Thresholds returned at most.

    Returns
    -------
    list of float
        In increasing order: the smallest thresholds t for which ``label_mask(map, t)`` has at least 1, 2, ... labels.
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
def _draw_regions(
    labels: NDArray[np.int32], values: NDArray[np.float32], stride: int, first_row: int, out: NDArray[np.float32]
) -> None:
    """Lower `out`, the image from `first_row` on, to the value of the label of each pixel."""
    rows, cols = labels.shape
    share = np.empty(4)
    around = np.empty(4, dtype=np.int32)
    for row in range(first_row, first_row + out.shape[0]):
        at_row = (row + 0.5) / stride - 0.5
        top = int(np.floor(at_row))
        low_weight = at_row - top
        row_0 = max(top, 0)
        row_1 = min(top + 1, rows - 1)
        nearest_row = row // stride
        for left in range(-1, cols):  # between the centres of two columns of positions the same four are around
            first_col = max(left * stride + stride // 2, 0)
            stop_col = min((left + 1) * stride + stride // 2, out.shape[1])
            col_0 = max(left, 0)
            col_1 = min(left + 1, cols - 1)
            around[0] = labels[row_0, col_0]
            around[1] = labels[row_0, col_1]
            around[2] = labels[row_1, col_0]
            around[3] = labels[row_1, col_1]
            is_uniform = around[0] == around[1] and around[0] == around[2] and around[0] == around[3]
            if is_uniform and around[0] == 0:
                continue
            for col in range(first_col, stop_col):
                label = labels[nearest_row, col // stride]
                if not is_uniform:
                    right_weight = (col + 0.5) / stride - 0.5 - left
                    share[0] = (1.0 - low_weight) * (1.0 - right_weight)
                    share[1] = (1.0 - low_weight) * right_weight
                    share[2] = low_weight * (1.0 - right_weight)
                    share[3] = low_weight * right_weight
                    own = 0.0
                    for i in range(4):
                        if around[i] == label:
                            own += share[i]
                    if own < _KEEP_SHARE:
                        most = -1.0
                        for i in range(4):
                            total = 0.0
                            for j in range(4):
                                if around[j] == around[i]:
                                    total += share[j]
                            if total > most:
                                most = total
                                label = around[i]
                if label > 0 and values[label - 1] < out[row - first_row, col]:
                    out[row - first_row, col] = values[label - 1]


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
