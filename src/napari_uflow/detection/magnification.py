"""Magnification of an image: its structures must have the size, in pixels, that they had in training."""

from __future__ import annotations

import math

from napari_uflow.image.plane import Plane
from napari_uflow.model.info import BACKBONES, JOINT_STRIDE, has_joint_levels
from napari_uflow.model.uflow import TrainedModel

__all__ = ["magnification_of", "pixel_size_ratios"]

# Ratios of pixel sizes, of new to training images, that count as the same.
_SAME = 1.05
# Up to this ratio an image is brought to the pixel size of training: beyond it detail is missing, or is lost.
_LARGEST_RATIO = 4.0


def pixel_size_ratios(model: TrainedModel, plane: Plane) -> tuple[float, float] | None:
    """Return height and width of an image's pixel over those of training; None if not known in the same unit."""
    trained = model.record.pixel_size
    if not trained or plane.pixel_size is None or plane.unit != model.record.unit:
        return None
    return plane.pixel_size[0] / trained[0], plane.pixel_size[1] / trained[1]


def magnification_of(model: TrainedModel, plane: Plane) -> float:
    """Return the pixels that the network sees per pixel of an image.

    The magnification of the model, times the ratio of the image's pixel size to that of training if both are known in
    the same unit, are square, and differ by more than 5 % and no more than 4 times; a position of the finest level
    never covers less than a pixel.

    Parameters
    ----------
    model : TrainedModel
        Model with the pixel size of its training.
    plane : Plane
        Image.
    """
    own: float = model.config.magnification
    largest = JOINT_STRIDE if has_joint_levels(model.config) else min(BACKBONES[model.config.backbone].strides)
    ratios = pixel_size_ratios(model, plane)
    if ratios is None:
        return own
    ratio = math.sqrt(ratios[0] * ratios[1])
    is_alike = max(ratios) / min(ratios) < _SAME
    is_other = _SAME < max(ratio, 1 / ratio) <= _LARGEST_RATIO
    return own * ratio if is_alike and is_other and own * ratio <= largest else own
