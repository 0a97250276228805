"""The image's border: where it looks strange on normal images, it is judged by what is further in.

What a backbone sees beyond the border has to be made up. Made up by reflection, every stripe gets a fold at the border
and a cross in the corner; filled with zeros, every border is an edge. In some images that looks stranger than any
defect: in normal images of aligned fibres the highest energy of every level of every image lay in a corner. In
others, of dense grains, a reflected border looks like everything else, and what is seen there is worth having.

Which it is can be measured on the normal images that a model is trained on. Where the border is strange, the
outermost positions of each level are given the features of the first one further in.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.image.grid import Window

__all__ = ["N_REPLICATED", "border_excess", "frame_of", "replicate", "replicated_mask"]

N_REPLICATED = 2
"""Positions of each level, from the border on, that take the features of the next one."""

# Positions without which quantiles say nothing.
_FEWEST_INSIDE = 16

Array = TypeVar("Array", torch.Tensor, NDArray[np.bool_])


def frame_of(window: Window, shape: tuple[int, int]) -> Window:
    """Return where the image lies as seen from a window of it: its frame, in pixels from the window's corner.

    Parameters
    ----------
    window : Window
        A part of the image, or one that sticks out of it.
    shape : (int, int)
        Rows and columns of the image.
    """
    return Window(-window.row, -window.col, *shape)


def replicate(values: Array, frame: Window | None, stride: int, n_held: int = N_REPLICATED) -> Array:
    """Replace the outermost positions inside the image's border, and all beyond, by the nearest ones further in.

    Parameters
    ----------
    values : Tensor or array (..., M, N)
        Values of one level in a window.
    frame : Window or None
        Where the image lies as seen from the window; None to leave all as it is.
    stride : int
        Pixels per position.
    n_held : int
        Positions that are replaced at each border, counted from the outermost one that is wholly inside; fewer where a
        image is so small that none would be left. What a window does not have is taken from the nearest it has.
    """
    if frame is None:
        return values
    rows = _nearest(values.shape[-2], frame.row, frame.stop_row, stride, n_held)
    cols = _nearest(values.shape[-1], frame.col, frame.stop_col, stride, n_held)
    if all(np.array_equal(at, np.arange(len(at))) for at in (rows, cols)):  # away from the border
        return values
    return values[..., rows[:, None], cols]


def replicated_mask(mask: Array, frame: Window | None, stride: int) -> Array:
    """Return where a mask (..., M, N) is set and is set, too, where :func:`replicate` takes the values from."""
    return mask & replicate(mask, frame, stride)


def _whole(start: int, stop: int, stride: int) -> tuple[int, int]:
    """First and last position that lie wholly in the pixels from `start` to before `stop`."""
    return -(-start // stride), stop // stride - 1


def _nearest(n: int, start: int, stop: int, stride: int, n_held: int) -> NDArray[np.int64]:
    """Positions 0 to n - 1, each moved to the nearest that is `n_held` positions inside of a image's border."""
    first, last = _whole(start, stop, stride)
    if last < first:  # no position is wholly inside
        return np.arange(n)
    held = min(n_held, (last - first) // 2)
    return np.clip(np.clip(np.arange(n), first + held, last - held), 0, n - 1)


def border_excess(
    energy: torch.Tensor, is_normal: torch.Tensor, frame: Window, stride: int, *, corners: bool = True
) -> float:
    """Return how much stranger the corners, or the borders, of an image look on one level than its inside.

    Parameters
    ----------
    energy : Tensor (M, N), float32
        How strange each position of a window is, by statistics of all positions.
    is_normal : Tensor (M, N), bool
        Positions that count.
    frame : Window
        Where the image lies as seen from the window.
    stride : int
        Pixels per position.
    corners : bool
        Corners, or all of the border.

    Returns
    -------
    float
        Mean of these positions, less the median of the inside, in units of half the distance between its 16 % and
        84 % quantiles. NaN where the window has none of them, or hardly an inside.
    """
    m, n = energy.shape
    is_row, is_inner_row = _places(m, frame.row, frame.stop_row, stride)
    is_col, is_inner_col = _places(n, frame.col, frame.stop_col, stride)
    where = is_row[:, None] & is_col if corners else is_row[:, None] | is_col
    border = torch.from_numpy(where) & is_normal
    inside = energy[torch.from_numpy(is_inner_row[:, None] & is_inner_col) & is_normal]
    if not border.any() or inside.numel() < _FEWEST_INSIDE:
        return math.nan
    low, middle, high = torch.quantile(inside, torch.tensor([0.16, 0.5, 0.84])).tolist()
    return float((energy[border].mean() - middle) / max((high - low) / 2, 1e-12))


def _places(n: int, start: int, stop: int, stride: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which positions 0 to n - 1 are the outermost in the image, and which are inside of those held."""
    first, last = _whole(start, stop, stride)
    at = np.arange(n)
    return (at == first) | (at == last), (at >= first + N_REPLICATED) & (at <= last - N_REPLICATED)
