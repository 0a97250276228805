"""The image's border: reflected, or replaced by the features further in.

Beyond the border there are no pixels, so a backbone sees a reflection, which folds every stripe at the border and
crosses it in the corner; zeros would make an edge of every border. In normal images of aligned fibres the highest
energy of every level of every image lay in a corner, above that of any defect; in images of dense grains a reflected
border was as normal as the interior, and its own features find the defects there.

The excess of the corners' energy is therefore measured on the normal images of a training. If it is large, the
outermost positions of each level take the features of the first one further in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from napari_uflow.config import BorderName
from napari_uflow.image.grid import Window

__all__ = ["LARGEST_EXCESS", "N_REPLICATED", "Border", "border_excess"]

N_REPLICATED = 2
"""Positions of each level, from the border on, that take the features of the next one."""

LARGEST_EXCESS = 2.5
"""Excess of the corners, in robust SD of the interior, up to which a border keeps its own features."""

# Positions of the interior without which its quantiles are meaningless.
_FEWEST_INSIDE = 16

Array = TypeVar("Array", torch.Tensor, NDArray[np.bool_])


@dataclass(frozen=True, slots=True)
class Border:
    """The treatment of positions at the border of an image.

    Attributes
    ----------
    kind : {"reflect", "replicate"}
        ``reflect`` keeps their own features, computed from the reflected image; ``replicate`` takes those of the
        nearest position that is `N_REPLICATED` positions further in.
    """

    kind: Literal["reflect", "replicate"] = "reflect"

    @classmethod
    def of(cls, name: BorderName) -> Self:
        """Make the border of a configuration; ``auto`` is reflected until it is decided."""
        return cls("replicate" if name == "replicate" else "reflect")

    @classmethod
    def choose(cls, excess: float) -> Self:
        """Choose by the excess of the corners of normal images; replicate if it is unknown (NaN).

        Parameters
        ----------
        excess : float
            As :func:`border_excess` returns it, of the level where it is largest.
        """
        return cls("reflect" if excess <= LARGEST_EXCESS else "replicate")

    def apply(self, values: Array, frame: Window | None, stride: int) -> Array:
        """Replace the values of positions at the border, and of those beyond it.

        Parameters
        ----------
        values : Tensor or array (..., M, N)
            Values of one level in a window.
        frame : Window or None
            The image in the window's pixel coordinates; None for a window without a border.
        stride : int
            Pixels per position.

        Returns
        -------
        Tensor or array (..., M, N)
            `values` itself if nothing is replaced. Of an image too small for `N_REPLICATED` positions on each side,
            fewer are replaced, so that one is left; a position outside the window is replaced by the nearest inside.
        """
        if self.kind == "reflect" or frame is None:
            return values
        rows = _sources(values.shape[-2], frame.row, frame.stop_row, stride)
        cols = _sources(values.shape[-1], frame.col, frame.stop_col, stride)
        if all(np.array_equal(at, np.arange(len(at))) for at in (rows, cols)):  # away from the border
            return values
        return values[..., rows[:, None], cols]

    def mask(self, mask: Array, frame: Window | None, stride: int) -> Array:
        """Clear a mask (..., M, N) at each position whose values :meth:`apply` takes from one that is not set."""
        return mask & self.apply(mask, frame, stride)


def _whole(start: int, stop: int, stride: int) -> tuple[int, int]:
    """Return the first and last position that lie wholly in the pixels from `start` to before `stop`."""
    return -(-start // stride), stop // stride - 1


def _sources(n: int, start: int, stop: int, stride: int) -> NDArray[np.int64]:
    """Return for positions 0 to n - 1 the nearest position that is `N_REPLICATED` positions inside the image."""
    first, last = _whole(start, stop, stride)
    if last < first:  # no position is wholly inside
        return np.arange(n)
    n_replicated = min(N_REPLICATED, (last - first) // 2)
    return np.clip(np.clip(np.arange(n), first + n_replicated, last - n_replicated), 0, n - 1)


def border_excess(
    energy: torch.Tensor, is_normal: torch.Tensor, frame: Window, stride: int, *, corners: bool = True
) -> float:
    """Return the energy of an image's corners, or of its whole border, in excess of the interior's.

    Parameters
    ----------
    energy : Tensor (M, N), float32
        Energies of one level in a window, by statistics of all positions.
    is_normal : Tensor (M, N), bool
        Positions that count.
    frame : Window
        The image in the window's pixel coordinates.
    stride : int
        Pixels per position.
    corners : bool
        Corners only, or all of the border.

    Returns
    -------
    float
        Mean of these positions minus the median of the interior, in robust SD of the interior: half the distance
        between its 16 % and 84 % quantiles. NaN if the window has none of these positions, or too small an interior.
    """
    m, n = energy.shape
    is_row, is_inner_row = _places(m, frame.row, frame.stop_row, stride)
    is_col, is_inner_col = _places(n, frame.col, frame.stop_col, stride)
    is_border = is_row[:, None] & is_col if corners else is_row[:, None] | is_col
    border = energy[torch.from_numpy(is_border) & is_normal]
    inside = energy[torch.from_numpy(is_inner_row[:, None] & is_inner_col) & is_normal]
    if not border.numel() or inside.numel() < _FEWEST_INSIDE:
        return math.nan
    low, middle, high = torch.quantile(inside, torch.tensor([0.16, 0.5, 0.84])).tolist()
    return float((border.mean() - middle) / max((high - low) / 2, 1e-12))


def _places(n: int, start: int, stop: int, stride: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which positions 0 to n - 1 are the outermost of the image, and which are in its interior."""
    first, last = _whole(start, stop, stride)
    at = np.arange(n)
    return (at == first) | (at == last), (at >= first + N_REPLICATED) & (at <= last - N_REPLICATED)
