"""Undo history of a labels layer whose regions got other numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Labels

__all__ = ["renumber_history"]

Translate = Callable[[tuple[int, ...], NDArray[np.int64], NDArray[np.int32]], NDArray[np.int32]]


def renumber_history(layer: Labels, translate: Translate) -> None:
    """Renumber what can be undone and redone in a labels layer, whose data was replaced.

    napari keeps the history when the data are replaced, and would write numbers of the earlier regions. It has no
    public access to it.

    Parameters
    ----------
    layer : Labels
        The layer.
    translate : callable
        Returns the new numbers of pixels of a plane, from its index, their row-major positions and their old numbers.
    """
    shape = layer.data.shape if not layer.multiscale else ()
    for history in (layer._undo_history, layer._redo_history):
        for i, item in enumerate(history):
            history[i] = [_renumbered(atom, shape, translate) for atom in item]


def _renumbered(atom: Any, shape: tuple[int, ...], translate: Translate) -> tuple[Any, ...]:
    """Return a change as its indices, and the numbers before and after it."""
    indices, before, after = atom if len(atom) == 3 else _unpacked(*atom)
    indices = tuple(np.asarray(axis, dtype=np.int64) for axis in indices)
    n = len(indices[0])
    numbers = [np.broadcast_to(np.asarray(values, dtype=np.int32), n).copy() for values in (before, after)]
    pixels = np.ravel_multi_index(indices[-2:], shape[-2:])
    at = np.stack(indices[:-2], axis=1) if len(shape) > 2 else np.zeros((n, 0), dtype=np.int64)
    for index in np.unique(at, axis=0):
        inside = (at == index).all(axis=1)
        for values in numbers:
            values[inside] = translate(tuple(index.tolist()), pixels[inside], values[inside])
    return indices, *numbers


def _unpacked(
    box: tuple[slice, ...], mask: NDArray[np.bool_] | None, before: NDArray[Any], after: int
) -> tuple[tuple[NDArray[np.int64], ...], NDArray[Any], int]:
    """Return indices and numbers of a change that napari keeps as a mask in a box."""
    shape = tuple(part.stop - part.start for part in box)
    inside = np.ones(shape, dtype=bool) if mask is None else mask
    indices = tuple(place + part.start for place, part in zip(np.nonzero(inside), box, strict=True))
    return indices, before.ravel(), after
