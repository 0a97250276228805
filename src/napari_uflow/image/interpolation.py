"""Maps of positions, interpolated to pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["interpolated"]


def interpolated(
    values: NDArray[np.floating], stride: float, start: int, stop: int, n_cols: int
) -> NDArray[np.float32]:
    """Interpolate a map bilinearly between the centres of its positions.

    Parameters
    ----------
    values : (m, n) array, float32
        Map; position (i, j) covers rows i * stride to (i + 1) * stride of the image, and likewise columns.
    stride : float
        Pixels per position.
    start, stop : int
        First row of the image to compute, and the one after the last.
    n_cols : int
        Columns of the image.

    Returns
    -------
    (stop - start, n_cols) array, float32
        Pixels beyond the outermost centres have the value of the nearest centre along their axis.
    """
    rows, next_rows, row_weight = _neighbours(start, stop, stride, values.shape[0])
    cols, next_cols, col_weight = _neighbours(0, n_cols, stride, values.shape[1])
    down = values[rows] + (values[next_rows] - values[rows]) * row_weight[:, None]
    return (down[:, cols] + (down[:, next_cols] - down[:, cols]) * col_weight).astype(np.float32, copy=False)


def _neighbours(
    start: int, stop: int, stride: float, n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return the positions on both sides of each pixel, and the weight of the second one."""
    at = np.clip((np.arange(start, stop) + 0.5) / stride - 0.5, 0, n - 1)
    before = np.minimum(at.astype(np.int64), max(n - 2, 0))
    return before, np.minimum(before + 1, n - 1), (at - before).astype(np.float32)
