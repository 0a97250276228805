"""Differences between an image and the normal images that limit the guarantee of a detection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from napari_uflow.detection.guarantee import Caveat
from napari_uflow.detection.magnification import pixel_size_ratios, trained_pixel_size
from napari_uflow.errors import ConfigError
from napari_uflow.image.condition import conditions_of
from napari_uflow.image.intensity import IntensityRange
from napari_uflow.image.pixel_size import PixelSize
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import ScoreMaps
from napari_uflow.model.uflow import TrainedModel

__all__ = ["SAME_PIXEL_SIZE", "acquisition_caveats", "in_condition", "score_caveats"]

# Pixels of the shorter side; in a smaller image most of the network's context is reflected at the border.
_SMALLEST_SIDE = 64
SAME_PIXEL_SIZE = (0.8, 1.25)
"""Ratios of pixel sizes, of new to training images, between which the guarantee applies."""
# Fraction of pixels darker or brighter than 99.8 % of the normal ones.
_OUTSIDE = 0.1
# Probability that a normal image differs as much from the normal images.
_UNLIKELY = 1e-3


def acquisition_caveats(model: TrainedModel, plane: Plane, magnification: float) -> list[tuple[Caveat, str]]:
    """Compare the size and the pixel size of an image with those of the training images.

    Parameters
    ----------
    model : TrainedModel
        Model with the pixel size of its training.
    plane : Plane
        Image.
    magnification : float
        Pixels that the network sees per pixel of the image.

    Returns
    -------
    list of (Caveat, str)
        Each with the warning for the user.
    """
    caveats = []
    if min(plane.shape) * magnification < _SMALLEST_SIDE:
        text = (
            f"'{plane.title}' has only {plane.shape[0]} x {plane.shape[1]} pixels: the network sees more reflection "
            f"than image, so the guarantee does not apply"
        )
        caveats.append((Caveat.TOO_SMALL, text))
    own, trained = PixelSize.of(plane), trained_pixel_size(model.record)
    ratios = pixel_size_ratios(trained, plane)
    low, high = (of * known for of, known in zip(SAME_PIXEL_SIZE, model.record.pixel_size_range, strict=True))
    if own and trained and ratios and not all(low < ratio < high for ratio in ratios):
        is_resampled = magnification != model.config.magnification
        effect = (
            "it is resampled, with other noise and detail" if is_resampled else "structures appear at another scale"
        )
        text = (
            f"'{plane.title}' has pixels of {own.text()}, but the model was trained on pixels of {trained.text()}: "
            f"{effect}, so the guarantee does not apply"
        )
        caveats.append((Caveat.PIXEL_SIZE, text))
    return caveats


def in_condition(
    model: TrainedModel, plane: Plane, condition: str = ""
) -> tuple[TrainedModel, list[tuple[Caveat, str]]]:
    """Return a model with the calibration for the condition of an image.

    Parameters
    ----------
    model : TrainedModel
        Model, with one condition or several.
    plane : Plane
        Image.
    condition : str
        Its condition; "" to find it by the pattern of the training.

    Returns
    -------
    model : TrainedModel
        With the calibration of the condition, or of all together if it is not known.
    caveats : list of (Caveat, str)
        In the second case, with the warning for the user.

    Raises
    ------
    ConfigError
        If a condition is given that is none of the training.
    """
    known = model.calibration.conditions if model.calibration is not None else {}
    if condition and condition not in known:
        names = ", ".join(f"'{name}'" for name in known) or "none"
        raise ConfigError(f"there is no condition '{condition}' in this model; its conditions: {names}")
    if model.calibration is None or not (known or model.training.condition_pattern):
        return model, []
    (found,) = [condition] if condition else conditions_of([plane], model.training.condition_pattern)
    if found is not None and found in known:
        return replace(model, calibration=known[found]), []
    name = f"the condition '{found}'" if found else "an unknown condition"
    text = (
        f"'{plane.title}' is of {name}, which the model was not trained on: it is compared with all others, without a "
        f"guarantee"
    )
    return model, [(Caveat.CONDITION, text)]


def score_caveats(model: TrainedModel, plane: Plane, scores: ScoreMaps) -> list[tuple[Caveat, str]]:
    """Compare the brightness and the scores of an image with those of the normal images.

    Returns
    -------
    list of (Caveat, str)
        Each with the warning for the user.
    """
    caveats = []
    if scores.outside > _OUTSIDE:
        text = (
            f"{scores.outside:.0%} of the pixels of '{plane.title}' ({_value_type(plane)}) are darker or brighter than "
            f"the training images, whose values are {_values_text(model.intensity)}: exposure, stain or type of pixel "
            f"differs, so the guarantee does not apply"
        )
        caveats.append((Caveat.BRIGHTNESS, text))
    if model.calibration is None:
        return caveats
    if model.calibration.median_p_value(scores.tested) < _UNLIKELY:
        is_subtracted = all(of.subtracts_median for of in model.calibration.maps)
        effect = (
            "regions are compared with its own background, and" if is_subtracted else "much of it may be reported, and"
        )
        text = (
            f"'{plane.title}' as a whole differs from the normal images (focus, magnification, contrast or material): "
            f"{effect} the guarantee does not apply"
        )
        caveats.append((Caveat.DISTRIBUTION, text))
    return caveats


def _value_type(plane: Plane) -> str:
    dtype = np.dtype(plane.data.dtype)
    return "real numbers" if dtype.kind == "f" else f"{8 * dtype.itemsize} bits"


def _values_text(intensity: IntensityRange) -> str:
    """Return the values between which nearly all normal pixels lie, per channel."""
    pairs = zip(intensity.low, intensity.high, strict=True)
    return ", ".join(f"{low:g} to {high:g}" for low, high in pairs)
