"""Regions of all levels drawn on the image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_uflow.nfa.compiled import compiled
from napari_uflow.nfa.segment import LevelRegions
from napari_uflow.system.scratch import release_pages, strips

__all__ = ["LevelCanvas", "combine_levels"]

# A pixel keeps the label of its nearest position (or background) if that has this share of the bilinear weight.
# 1/2 gives the smoothest outlines but leaves 61 % of the area of a region of one position, 1/4 gives plain blocks.
# 0.4 leaves 85 %, moves no straight border, and rounds outer and inner corners alike (by 0.04 positions each).
_KEEP_SHARE = 0.4
# Error, in pixels, of a stride that is not whole, times the number of positions.
_ROUNDING = 1e-6
_LOWEST = float(np.finfo(np.float32).min)


def combine_levels(
    levels: Sequence[LevelRegions],
    strides: Sequence[float],
    shape: tuple[int, int],
    *,
    background: float,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Draw the regions of all levels on the image; the lowest log10 NFA wins if they overlap.

    Position (i, j) of a level covers rows i * stride to (i + 1) * stride - 1 of the image, and likewise columns.
    Outlines are smoothed by the bilinear weights of the four positions around a pixel (half-pixel geometry,
    `align_corners=False`): a pixel has the label of its nearest position, background included, unless that label has
    less than 0.4 of the weight; then it has the label of most weight.

    Parameters
    ----------
    levels : sequence of LevelRegions
        Regions of each level.
    strides : sequence of float
        Image pixels per position of each level, at least 1.
    shape : (int, int)
        Rows and columns (M, N) of the image. A level may extend beyond it below and on the right (padding).
    background : float
        Value of pixels in no region, and the largest value of any other, such as the highest log10 number of tests of
        the levels.
    out : (M, N) array, float32, optional
        Array to draw into; a new one by default.

    Returns
    -------
    (M, N) array, float32
        log10 NFA; finite.

    Raises
    ------
    ValueError
        If the sequences differ in length, a stride is below 1, or a level does not reach the image's border.

    See Also
    --------
    LevelCanvas : The same strip by strip, for large images.

    Notes
    -----
    Every region is visible on its own level: the central pixels of a position have at least 0.56 of its weight. A
    region of one position keeps 4 of 4, 12 of 16 and 52 of 64 pixels at strides 2, 4 and 8, and 85 % in the limit.
    Inner corners gain the pixels that outer corners lose, so larger regions without holes lose no more pixels in all
    than one position does.

    Examples
    --------
    >>> import numpy as np
    >>> level = LevelRegions(np.array([[1, 0]], dtype=np.int32), np.array([-3.0]))
    >>> combine_levels([level], [2], (2, 4), background=2.0)
    array([[-3., -3.,  2.,  2.],
           [-3., -3.,  2.,  2.]], dtype=float32)
    """
    canvas = LevelCanvas(levels, strides, shape, background=background, out=out)
    for start, stop in strips(shape):
        canvas.draw(start, stop)
    return canvas.image


class LevelCanvas:
    """Image of the regions of all levels, drawn in strips of rows.

    Parameters
    ----------
    levels, strides, shape, background, out
        As in :func:`combine_levels`.

    Attributes
    ----------
    image : (M, N) array, float32
        log10 NFA in the rows drawn so far; undefined in others.
    """

    def __init__(
        self,
        levels: Sequence[LevelRegions],
        strides: Sequence[float],
        shape: tuple[int, int],
        *,
        background: float,
        out: NDArray[np.float32] | None = None,
    ) -> None:
        if len(levels) != len(strides):
            raise ValueError(f"levels and strides must be as many, got {len(levels)} and {len(strides)}")
        for level, stride in zip(levels, strides, strict=True):
            if stride < 1:
                raise ValueError(f"strides must be at least 1, got {stride}")
            rows, cols = level.labels.shape
            if rows * stride < shape[0] - _ROUNDING or cols * stride < shape[1] - _ROUNDING:
                raise ValueError(f"a level of {rows} x {cols} positions of {stride:g} pixels does not cover {shape}")
        self.image = np.empty(shape, dtype=np.float32) if out is None else out
        self._background = background
        self._levels = [
            (np.ascontiguousarray(level.labels), np.maximum(level.log10_nfa, _LOWEST).astype(np.float32), float(stride))
            for level, stride in zip(levels, strides, strict=True)
            if level.log10_nfa.size > 0
        ]

    def draw(self, start: int, stop: int) -> None:
        """Draw rows `start` to `stop` - 1."""
        strip = self.image[start:stop]
        strip[:] = self._background
        for labels, values, stride in self._levels:
            _draw_regions(labels, values, stride, start, strip)
        release_pages(self.image)


@compiled
def _draw_regions(
    labels: NDArray[np.int32], values: NDArray[np.float32], stride: float, first_row: int, out: NDArray[np.float32]
) -> None:
    """Lower `out`, rows of the image from `first_row` on, to the value of the label of each pixel."""
    rows, cols = labels.shape
    share = np.empty(4)
    around = np.empty(4, dtype=np.int32)
    for row in range(first_row, first_row + out.shape[0]):
        at_row = (row + 0.5) / stride - 0.5
        top = int(np.floor(at_row))
        low_weight = at_row - top
        row_0 = max(top, 0)
        row_1 = min(top + 1, rows - 1)
        nearest_row = min(int((row + 0.5) / stride), rows - 1)
        for left in range(-1, cols):  # between the centres of two columns of positions the four neighbours are the same
            # columns whose centres lie between those of two positions
            first_col = max(int(np.ceil((left + 0.5) * stride - 0.5)), 0)
            stop_col = min(int(np.ceil((left + 1.5) * stride - 0.5)), out.shape[1])
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
                label = labels[nearest_row, min(int((col + 0.5) / stride), cols - 1)]
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
