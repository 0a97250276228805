"""Magnification of an image: its structures must have the size, in pixels, that they had in training."""

from __future__ import annotations

import math

from napari_uflow.config import ModelConfig
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.plane import Plane
from napari_uflow.model.info import BACKBONES, JOINT_STRIDE, has_joint_levels
from napari_uflow.model.record import TrainingRecord
from napari_uflow.model.uflow import TrainedModel

__all__ = ["magnification_of", "pixel_size_ratios", "relative_magnification", "trained_pixel_size"]

# Ratios of pixel sizes, of new to training images, that count as the same.
_SAME = 1.05
# Up to this ratio an image is brought to the pixel size of training: beyond it detail is missing, or is lost.
_LARGEST_RATIO = 4.0


def trained_pixel_size(record: TrainingRecord) -> PixelSize | None:
    """Return the pixel size that the images of a training were brought to; None if it is not known."""
    return None if not record.pixel_size else PixelSize(*record.pixel_size, record.unit)


def pixel_size_ratios(trained: PixelSize | None, plane: Plane) -> tuple[float, float] | None:
    """Return height and width of an image's pixel over those of training; None if they cannot be compared."""
    own = PixelSize.of(plane)
    return None if own is None or trained is None else own.over(trained)


def relative_magnification(config: ModelConfig, trained: PixelSize | None, plane: Plane) -> float:
    """Return the magnification of an image over that of the model, in training and in detection.

    The ratio of the image's pixel size to that of training if both are known, can be compared, are alike in shape, and
    differ by more than 5 % and no more than 4 times; a position of the finest level never covers less than a pixel.
    Otherwise 1.

    Parameters
    ----------
    config : ModelConfig
        Parts of the model.
    trained : PixelSize or None
        Pixel size that the images of the training are brought to.
    plane : Plane
        Image.
    """
    ratios = pixel_size_ratios(trained, plane)
    if ratios is None:
        return 1.0
    largest = JOINT_STRIDE if has_joint_levels(config) else min(BACKBONES[config.backbone].strides)
    ratio = math.sqrt(ratios[0] * ratios[1])
    is_alike = max(ratios) / min(ratios) < _SAME
    is_other = _SAME < max(ratio, 1 / ratio) <= _LARGEST_RATIO
    return ratio if is_alike and is_other and config.magnification * ratio <= largest else 1.0


def magnification_of(model: TrainedModel, plane: Plane) -> float:
    """Return the pixels that the network sees per pixel of an image.

    The magnification of the model, times :func:`relative_magnification`.

    Parameters
    ----------
    model : TrainedModel
        Model with the pixel size of its training.
    plane : Plane
        Image.
    """
    return model.config.magnification * relative_magnification(model.config, trained_pixel_size(model.record), plane)
