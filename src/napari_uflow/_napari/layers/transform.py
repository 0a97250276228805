"""Transform that aligns a result with its image layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Image
from napari_uflow._napari.layers.axes import frame_of

__all__ = ["output_transform"]


def output_transform(
    layer: Image, *, channel_axis: int | None = None, offset: tuple[int, int] = (0, 0), index: Sequence[int] = ()
) -> dict[str, Any]:
    """Return the layer attributes that align a result with its image.

    Parameters
    ----------
    layer : Image
        The image.
    channel_axis : int, optional
        As in :func:`planes_of_layer`.
    offset : (int, int)
        Row and column of the image where the result begins.
    index : sequence of int, optional
        Position on the axes before rows and columns, for a result of one plane of a stack.

    Returns
    -------
    dict
        scale, translate, rotate, shear, affine, units and axis_labels, for ``viewer.add_image`` and the like.
    """
    from napari.utils.transforms import Affine

    frame = frame_of(layer, channel_axis)
    axes = list(frame.axes)
    scale, translate = np.array(layer.scale, dtype=float), np.array(layer.translate, dtype=float)
    rotate = np.array(layer.rotate, dtype=float)
    shear = np.array(layer.shear, dtype=float)
    start = np.zeros(layer.ndim)
    start[axes] = [*(index or [0] * (len(axes) - 2)), *offset]
    if frame.keeps_channel:  # one entry as long as all channels, visible with each of them
        start[frame.channel] = (frame.n_channels - 1) / 2
    linear = Affine(scale=scale, rotate=rotate, shear=shear, ndim=layer.ndim).linear_matrix
    translate = translate + linear @ start
    if frame.keeps_channel:
        scale[frame.channel] *= frame.n_channels
    affine = np.asarray(layer.affine.affine_matrix, dtype=float)
    with_last = [*axes, layer.ndim]
    return {
        "scale": tuple(scale[axes].tolist()),
        "translate": tuple(translate[axes].tolist()),
        "rotate": rotate[np.ix_(axes, axes)],
        "shear": _kept_shear(shear, layer.ndim, axes),
        "affine": affine[np.ix_(with_last, with_last)],
        "units": tuple(layer.units[axis] for axis in axes),
        "axis_labels": tuple(layer.axis_labels[axis] for axis in axes),
    }


def _kept_shear(shear: NDArray[np.float64], n: int, axes: Sequence[int]) -> NDArray[np.float64]:
    """Return the shear between some of n axes; napari lists the entries above the diagonal row by row."""
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, 1)] = shear
    return np.asarray(matrix[np.ix_(axes, axes)][np.triu_indices(len(axes), 1)])
