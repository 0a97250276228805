"""Sample data of the plugin: stacks of drawn fibre images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_uflow.samples.dataset import fibre_dataset
from napari_uflow.samples.fibres import FibreField

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

__all__ = ["open_defective_fibres", "open_normal_fibres"]

_SHAPE = (256, 256)

# As in the demo; a training with the default settings, one or two minutes, learns this.
_DRAWING: dict[str, Any] = {"aligned": True, "diameter_px": 5.0, "severity": (0.8, 1.0)}
_N_NORMAL = 32
_N_DEFECTIVE, _N_CLEAN = 9, 3

_PIXEL_UM = 0.09
"""Micrometres per pixel: a fibre of 5 pixels is 450 nm thick, as is usual for electrospinning."""


def open_normal_fibres() -> "list[LayerDataTuple]":
    """Draw normal images of electrospun fibres, to train on.

    Returns
    -------
    list of LayerDataTuple
        One image layer, uint8 of shape (32, 256, 256), with its pixel size.
    """
    return [_images(fibre_dataset(_N_NORMAL, 0, shape=_SHAPE, **_DRAWING), "Fibres, normal")]


def open_defective_fibres() -> "list[LayerDataTuple]":
    """Draw images with defects, a few without, and the true defects.

    Returns
    -------
    list of LayerDataTuple
        An image layer, uint8 of shape (12, 256, 256), of which the last three are normal; and a labels layer of the
        same shape whose features give the kind of each defect. Labels are unique over the stack; row 0 of the features
        is the background.
    """
    # another seed than the normal images
    fields = fibre_dataset(_N_CLEAN, _N_DEFECTIVE, shape=_SHAPE, seed=1, **_DRAWING)
    fields = fields[_N_CLEAN:] + fields[:_N_CLEAN]
    truth = np.zeros((len(fields), *_SHAPE), np.int32)
    kinds, places = ["background"], [-1]
    for place, drawn in enumerate(fields):
        truth[place] = np.where(drawn.labels > 0, drawn.labels + np.int32(len(kinds) - 1), 0)
        kinds += drawn.kinds
        places += [place] * len(drawn.kinds)
    options: dict[str, Any] = {
        "name": "Fibres, truth",
        "features": {"index": np.arange(len(kinds)), "kind": kinds, "specimen": places},
        "opacity": 0.5,
        "visible": False,
        **_geometry(),
    }
    return [_images(fields, "Fibres, with defects"), (truth, options, "labels")]


def _images(fields: list[FibreField], name: str) -> "LayerDataTuple":
    stack = np.stack([drawn.image for drawn in fields])
    return stack, {"name": name, "colormap": "gray", "contrast_limits": (0, 255), **_geometry()}, "image"


def _geometry() -> dict[str, Any]:
    return {
        "axis_labels": ("specimen", "y", "x"),
        "scale": (1.0, _PIXEL_UM, _PIXEL_UM),
        "units": ("pixel", "um", "um"),
    }
