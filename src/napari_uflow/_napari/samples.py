"""The sample data of the plugin: stacks of drawn fibre fields as layers."""

from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from napari_uflow.samples import DefectKind, FibreField, fibre_field

if TYPE_CHECKING:
    from napari.types import LayerDataTuple

__all__ = ["open_defective_fibres", "open_normal_fibres"]

_SHAPE = (512, 512)

_PIXEL_UM = 0.05
"""Micrometres per pixel: a fibre of 9 pixels is then 450 nm thick, an ordinary one for electrospinning."""


def open_normal_fibres() -> "list[LayerDataTuple]":
    """Draw six normal fields of electrospun fibres, to train on.

    Returns
    -------
    list of LayerDataTuple
        One image layer, uint8 of shape (6, 512, 512), with its pixel size.
    """
    fields = [fibre_field(seed, shape=_SHAPE) for seed in range(6)]
    return [_images(fields, "Fibres, normal")]


def open_defective_fibres() -> "list[LayerDataTuple]":
    """Draw six fields with defects, two for each kind, and where the defects are.

    Returns
    -------
    list of LayerDataTuple
        An image layer, uint8 of shape (6, 512, 512), and a labels layer of the same shape whose features say of what
        kind each defect is. Labels are unique over the stack; row 0 of the features is the background.
    """
    fields = [
        fibre_field(100 + i, shape=_SHAPE, defects=3, kinds=(kind,), severity=(0.3, 1.0))
        for i, kind in enumerate(get_args(DefectKind) * 2)
    ]
    truth = np.zeros((len(fields), *_SHAPE), np.int32)
    kinds, frames = ["background"], [-1]
    for frame, drawn in enumerate(fields):
        truth[frame] = np.where(drawn.labels > 0, drawn.labels + np.int32(len(kinds) - 1), 0)
        kinds += drawn.kinds
        frames += [frame] * len(drawn.kinds)
    options: dict[str, Any] = {
        "name": "Fibres, truth",
        "features": {"index": np.arange(len(kinds)), "kind": kinds, "field": frames},
        "opacity": 0.5,
        **_geometry(),
    }
    return [_images(fields, "Fibres, with defects"), (truth, options, "labels")]


def _images(fields: list[FibreField], name: str) -> "LayerDataTuple":
    stack = np.stack([drawn.image for drawn in fields])
    return stack, {"name": name, "colormap": "gray", "contrast_limits": (0, 255), **_geometry()}, "image"


def _geometry() -> dict[str, Any]:
    return {
        "axis_labels": ("field", "y", "x"),
        "scale": (1.0, _PIXEL_UM, _PIXEL_UM),
        "units": ("pixel", "um", "um"),
    }
