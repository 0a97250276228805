"""Division of grown regions into pieces that are outlined one at a time, and the links that keep them together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.compiled import compiled
from napari_uflow.nfa.growth import GrownRegions

__all__ = ["Pieces", "cut_into_pieces"]


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Pieces of regions, each of which is connected by sides and small enough to be processed at once.

    Attributes
    ----------
    labels : (m, n) array, int32
        0 outside, p in positions of piece p = 1 ... k; pieces of more significant regions first.
    region : (k,) array, int32
        Region, from 1, of piece p at index p - 1, in increasing order.
    boxes : (k, 4) array, int64
        First row, first column, stop row and stop column of each piece, in positions.
    links : (l, 2) array, int64
        Pairs of pieces (a, b), a < b, that must remain connected, by sides or corners. They form a forest; for every
        threshold of the significance, pieces at or below it that must be connected are so through such pieces.
    """

    labels: NDArray[np.int32]
    region: NDArray[np.int32]
    boxes: NDArray[np.int64]
    links: NDArray[np.int64]


def cut_into_pieces(grown: GrownRegions, evidence: NDArray[np.floating], span: int) -> Pieces:
    """Divide regions of more than `span` positions in height or width into square pieces.

    Parameters
    ----------
    grown : GrownRegions
        Regions.
    evidence : (m, n) array, float
        Pieces are linked where they touch at the highest evidence.
    span : int
        Largest height and width of a piece in positions, at least 1.
    """
    n_regions = grown.log10_nfa.size
    corner = _first_positions(grown.labels, n_regions)
    labels, n_pieces = _label_pieces(grown.labels, corner, span)
    of = np.zeros(n_pieces + 1, dtype=np.int32)
    of[labels.ravel()] = grown.labels.ravel()
    rank = np.zeros(n_pieces + 1, dtype=np.int32)
    order = np.argsort(of[1:], kind="stable")
    rank[1:][order] = np.arange(1, n_pieces + 1, dtype=np.int32)
    labels = rank[labels]
    region = of[1:][order]
    strength = np.where(np.isnan(evidence), -np.inf, evidence).astype(np.float64)
    pairs, strengths = _touching(labels, grown.labels, grown.cores, strength)
    return Pieces(labels, region, _boxes(labels, n_pieces), _forest(pairs, strengths, region))


def _forest(pairs: NDArray[np.int64], strengths: NDArray[np.float64], region: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return the pairs (l, 2) of a spanning forest; those of significant regions first, then of high strength."""
    later = region[pairs.max(axis=1) - 1] if len(pairs) else np.empty(0, dtype=np.int32)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -strengths, later))
    return pairs[order][_joins(pairs[order], region.size)]


@compiled
def _first_positions(labels: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    """Return the first row, first column, last row and last column of each region (n, 4)."""
    corner = np.empty((n, 4), dtype=np.int64)
    corner[:, :2] = labels.size
    corner[:, 2:] = -1
    for row in range(labels.shape[0]):
        for col in range(labels.shape[1]):
            label = labels[row, col]
            if label > 0:
                box = corner[label - 1]
                box[0] = min(box[0], row)
                box[1] = min(box[1], col)
                box[2] = max(box[2], row)
                box[3] = max(box[3], col)
    return corner


def _boxes(labels: NDArray[np.int32], n: int) -> NDArray[np.int64]:
    boxes = _first_positions(labels, n)
    boxes[:, 2:] += 1
    return np.asarray(boxes)


@compiled
def _label_pieces(regions: NDArray[np.int32], corner: NDArray[np.int64], span: int) -> tuple[NDArray[np.int32], int]:
    """Label the parts, connected by sides, of each region in each square of its grid of `span` positions."""
    n_rows, n_cols = regions.shape
    labels = np.zeros((n_rows, n_cols), dtype=np.int32)
    stack = np.empty(n_rows * n_cols, dtype=np.int64)
    n_pieces = 0
    for first_row in range(n_rows):
        for first_col in range(n_cols):
            region = regions[first_row, first_col]
            if region == 0 or labels[first_row, first_col] > 0:
                continue
            n_pieces += 1
            labels[first_row, first_col] = n_pieces
            top = corner[region - 1, 0]
            left = corner[region - 1, 1]
            square_row = (first_row - top) // span
            square_col = (first_col - left) // span
            stack[0] = first_row * n_cols + first_col
            height = 1
            while height > 0:
                height -= 1
                row = stack[height] // n_cols
                col = stack[height] - row * n_cols
                for side in range(4):
                    near_row = row + (side == 0) - (side == 1)
                    near_col = col + (side == 2) - (side == 3)
                    if near_row < 0 or near_row >= n_rows or near_col < 0 or near_col >= n_cols:
                        continue
                    if regions[near_row, near_col] != region or labels[near_row, near_col] > 0:
                        continue
                    if (near_row - top) // span != square_row or (near_col - left) // span != square_col:
                        continue
                    labels[near_row, near_col] = n_pieces
                    stack[height] = near_row * n_cols + near_col
                    height += 1
    return labels, n_pieces


@compiled
def _touching(
    pieces: NDArray[np.int32], regions: NDArray[np.int32], cores: NDArray[np.int32], strength: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return pairs of pieces (n, 2) that must remain connected where they touch, and their evidence there (n,).

    These are pieces of one region, and pieces that touch in positions of original regions.
    """
    n_rows, n_cols = pieces.shape
    n = 0
    pairs = np.empty((16, 2), dtype=np.int64)
    strengths = np.empty(16)
    for row in range(n_rows):
        for col in range(n_cols):
            here = pieces[row, col]
            if here == 0:
                continue
            for side in range(4):
                near_row = row + (side > 0)
                near_col = col + (1 if side == 0 else side - 2)
                if near_row >= n_rows or near_col < 0 or near_col >= n_cols:
                    continue
                near = pieces[near_row, near_col]
                if near == 0 or near == here:
                    continue
                is_one_region = regions[row, col] == regions[near_row, near_col]
                if not is_one_region and (cores[row, col] == 0 or cores[near_row, near_col] == 0):
                    continue
                if n == len(strengths):
                    more_pairs = np.empty((2 * n, 2), dtype=np.int64)
                    more_pairs[:n] = pairs
                    pairs = more_pairs
                    more_strengths = np.empty(2 * n)
                    more_strengths[:n] = strengths
                    strengths = more_strengths
                pairs[n, 0] = min(here, near)
                pairs[n, 1] = max(here, near)
                strengths[n] = min(strength[row, col], strength[near_row, near_col])
                n += 1
    return pairs[:n], strengths[:n]


@compiled
def _joins(pairs: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Return which of the pairs, one after the other, joins two parts that were separate."""
    root = np.arange(n + 1)
    joins = np.zeros(len(pairs), dtype=np.bool_)
    for i in range(len(pairs)):
        a = pairs[i, 0]
        while root[a] != a:
            root[a] = root[root[a]]
            a = root[a]
        b = pairs[i, 1]
        while root[b] != b:
            root[b] = root[root[b]]
            b = root[b]
        if a != b:
            root[max(a, b)] = min(a, b)
            joins[i] = True
    return joins
