"""Classes of positions by their distance from the image's border, and the scale of each class.

Features of positions near the border have another law than those inside, whatever continues the image. A score is
therefore measured on the scale of normal positions of its own class: its distance from the border in positions, 0 to 3
or more, at an edge or in a corner. A class depends on the image's frame alone, so a tile sees the classes of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_uflow.image.grid import Window

__all__ = ["N_CLASSES", "ClassScale", "border_classes"]

_DEPTH = 3
N_CLASSES = 2 * _DEPTH + 1
"""Edge and corner at distances 0, 1 and 2, and the inside, which is the last class."""

# The width of a class is measured at the first quantile, which few positions suffice for; that of all classes together
# then makes the second one 1.
_QUANTILE = 0.9
_TAIL = 0.99
# A class of few positions is drawn towards the next one further in, as if it had this many more of that one's values.
_PRIOR_POSITIONS = 100.0


def border_classes(shape: tuple[int, int], frame: Window | None, stride: int) -> NDArray[np.int64]:
    """Return the class of every position of a window.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns of positions.
    frame : Window or None
        The image in the window's pixel coordinates; None for a window without a border.
    stride : int
        Pixels per position.

    Returns
    -------
    (M, N) array, int64
        Twice the distance from the border in positions, 0 to 2, plus 1 where that from a second border is below 3,
        too; 6 inside.
    """
    if frame is None:
        return np.full(shape, N_CLASSES - 1)
    rows = _distances(shape[0], frame.row, frame.stop_row, stride)[:, None]
    cols = _distances(shape[1], frame.col, frame.stop_col, stride)
    nearest = np.minimum(rows, cols)
    return np.where(nearest == _DEPTH, N_CLASSES - 1, 2 * nearest + (np.maximum(rows, cols) < _DEPTH))


def _distances(n: int, start: int, stop: int, stride: int) -> NDArray[np.int64]:
    """Return the distance, at most 3, of positions 0 to n - 1 from the first or the last one of the image."""
    at = np.arange(n)
    first, last = start // stride, -(-stop // stride) - 1
    return np.clip(np.minimum(at - first, last - at), 0, _DEPTH)


class ClassScale(nn.Module):
    """Median and width of the scores of normal positions of each class, for several kinds of score.

    Parameters
    ----------
    n_kinds : int
        Kinds of score.

    Attributes
    ----------
    median, width : Tensor (n_kinds, N_CLASSES), float32
        Median of each class; and a multiple of its .9 quantile above that, such that the .99 quantile of all positions
        is 1.
    """

    median: Tensor
    width: Tensor

    def __init__(self, n_kinds: int):
        super().__init__()
        self.register_buffer("median", torch.zeros(n_kinds, N_CLASSES))
        self.register_buffer("width", torch.ones(n_kinds, N_CLASSES))

    def fit(self, kind: int, scores: Sequence[NDArray[np.float32]], classes: Sequence[NDArray[np.int64]]) -> None:
        """Fit the scale of one kind of score.

        Parameters
        ----------
        kind : int
            Kind of score.
        scores : sequence of (n,) arrays, float32
            Scores of normal positions.
        classes : sequence of (n,) arrays, int64
            Their classes.
        """
        all_values, of = np.concatenate(scores), np.concatenate(classes)
        known = np.isfinite(all_values)
        values, of = all_values[known].astype(np.float64), of[known]
        if not len(values):
            return
        inside = values[of == N_CLASSES - 1]
        median, width = _scale_of(inside if len(inside) else values)
        self._set(kind, N_CLASSES - 1, median, width)
        # From the inside outwards, an edge before its corner: each class falls back on the one before it.
        for distance in reversed(range(_DEPTH)):
            for i in (2 * distance, 2 * distance + 1):
                own = values[of == i]
                if len(own):
                    share = len(own) / (len(own) + _PRIOR_POSITIONS)
                    own_median, own_width = _scale_of(own)
                    median = share * own_median + (1 - share) * median
                    width = width * (own_width / width) ** share
                self._set(kind, i, median, width)
            # the next distance falls back on the edge, not on the corner
            median, width = float(self.median[kind, 2 * distance]), float(self.width[kind, 2 * distance])

        scaled = (values - self.median[kind].numpy(force=True)[of]) / self.width[kind].numpy(force=True)[of]
        self.width[kind] *= max(float(np.quantile(scaled, _TAIL)), 1e-3)

    def widen(self, kind: int, scores: Sequence[NDArray[np.float32]]) -> None:
        """Multiply the width of one kind of score so that the .99 quantile of other normal positions is 1.

        Parameters
        ----------
        kind : int
            Kind of score.
        scores : sequence of arrays, float32
            Scaled scores of positions that the network was not trained on.
        """
        values = np.concatenate([x.ravel() for x in scores])
        values = values[np.isfinite(values)]
        if len(values):
            self.width[kind] *= max(float(np.quantile(values, _TAIL)), 1e-3)

    def _set(self, kind: int, i: int, median: float, width: float) -> None:
        self.median[kind, i], self.width[kind, i] = median, width

    def apply(self, kind: int, score: Tensor, classes: NDArray[np.int64]) -> Tensor:  # type: ignore[override]
        """Return scores (..., M, N) on the scale of their classes: 0 at the normal median, 1 at the .99 quantile."""
        of = torch.from_numpy(classes).to(score.device)
        return (score - self.median[kind][of]) / self.width[kind][of]


def _scale_of(values: NDArray[np.float64]) -> tuple[float, float]:
    median, high = np.quantile(values, [0.5, _QUANTILE])
    return float(median), max(float(high - median), 1e-6 * max(1.0, abs(float(median))))
