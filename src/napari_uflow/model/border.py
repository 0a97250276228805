"""The picture's border: where it looks strange on normal pictures, it is judged by what is further in.

What a backbone sees beyond the border has to be made up. Made up by reflection, every stripe gets a fold at the border
and a cross in the corner; filled with zeros, every border is an edge. In some pictures that looks stranger than any
defect: in normal pictures of aligned fibres the highest energy of every level of every picture lay in a corner. In
others, of dense grains, a reflected border looks like everything else, and what is seen there is worth having.

Which it is can be measured on the normal pictures that a model is trained on. Where the border is strange, the
outermost positions of each level are given the features of the first one further in.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.image import Window

__all__ = ["NO_SIDES", "N_HELD", "Sides", "border_excess", "hold", "sides_of", "viewed_sides"]

N_HELD = 2
"""Positions of each level, from the border on, that take the features of the next one."""

# Positions without which quantiles say nothing.
_FEWEST_INSIDE = 16

Sides = tuple[bool, bool, bool, bool]
"""Whether a window ends at the picture's border: at the top, at the bottom, on the left, on the right."""

NO_SIDES: Sides = (False, False, False, False)
"""Those of a window inside of the picture."""

Array = TypeVar("Array", torch.Tensor, NDArray[np.bool_])


def sides_of(window: Window, shape: tuple[int, int], align: int) -> Sides:
    """Return at which sides a window reaches the border of a picture.

    Parameters
    ----------
    window : Window
        Its borders are multiples of `align`.
    shape : (int, int)
        Rows and columns of the picture.
    align : int
        The picture counts as so large that its sides are multiples of this.
    """
    height, width = (-(-size // align) * align for size in shape)
    return window.row <= 0, window.stop_row >= height, window.col <= 0, window.stop_col >= width


def viewed_sides(sides: Sides, view: int) -> Sides:
    """Return where the borders are in a turned or mirrored copy, views as in `napari_uflow.features.viewed`."""
    top, bottom, left, right = sides
    if view & 1:
        left, right = right, left
    if view & 2:
        top, bottom = bottom, top
    return (left, right, top, bottom) if view & 4 else (top, bottom, left, right)


def hold(values: Array, sides: Sides, n_held: int = N_HELD) -> Array:
    """Replace the outermost positions at the picture's border by the nearest ones further in.

    Parameters
    ----------
    values : Tensor or array (..., M, N)
        Values of one level.
    sides : Sides
        Where the border is; other sides are left as they are.
    n_held : int
        Positions that are replaced at each of them; fewer where a level is so small that none would be left.
    """
    top, bottom, left, right = sides
    rows = _nearest(values.shape[-2], n_held * top, n_held * bottom)
    cols = _nearest(values.shape[-1], n_held * left, n_held * right)
    return values[..., rows[:, None], cols]


def _nearest(n: int, first: int, last: int) -> NDArray[np.int64]:
    """Positions 0 to n - 1, each moved to the nearest that is `first` from the start and `last` from the end."""
    spare = (n - 1) // max(1, (first > 0) + (last > 0))
    first, last = min(first, spare), min(last, spare)
    return np.clip(np.arange(n), first, n - 1 - last)


def border_excess(energy: torch.Tensor, is_normal: torch.Tensor, sides: Sides) -> float:
    """Return how much stranger the corners of one level look than its inside.

    Parameters
    ----------
    energy : Tensor (M, N), float32
        How strange each position is, by statistics of all of them.
    is_normal : Tensor (M, N), bool
        Positions that count.
    sides : Sides
        Where the picture's border is.

    Returns
    -------
    float
        Mean of the corner positions, less the median of the inside, in units of half the distance between its 16 % and
        84 % quantiles. Where the window has no corner of the picture, of the positions along its border instead. NaN
        where there is no border, or hardly an inside.
    """
    m, n = energy.shape
    is_row, is_col = (torch.zeros(size, dtype=torch.bool, device=energy.device) for size in (m, n))
    top, bottom, left, right = sides
    is_row[0], is_row[-1], is_col[0], is_col[-1] = top, bottom, left, right
    corner = is_normal & is_row[:, None] & is_col
    border = corner if corner.any() else is_normal & (is_row[:, None] | is_col)
    inside = energy[N_HELD:-N_HELD, N_HELD:-N_HELD][is_normal[N_HELD:-N_HELD, N_HELD:-N_HELD]]
    if not border.any() or inside.numel() < _FEWEST_INSIDE:
        return float("nan")
    low, middle, high = torch.quantile(inside, torch.tensor([0.16, 0.5, 0.84], device=energy.device)).tolist()
    return float((energy[border].mean() - middle) / max((high - low) / 2, 1e-12))
