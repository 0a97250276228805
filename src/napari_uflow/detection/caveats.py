"""What a detection's number of false alarms is worth, and in which ways an image is unlike the training images."""

from __future__ import annotations

from napari_uflow.config import DetectionConfig
from napari_uflow.image.plane import Plane
from napari_uflow.model.inference import ScoreMaps
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.nfa.conformal import counts_images, specimens_needed
from napari_uflow.wording import counted

__all__ = ["differences", "guarantee", "unlike"]

# Pixels of the shorter side below which most of what the model looks at is beyond the image's border.
_SMALLEST = 64


def guarantee(n_specimens: int | None, config: DetectionConfig, n_planes: int = 1) -> str:
    """Say in one sentence what the number of false alarms of a detection rests on.

    Parameters
    ----------
    n_specimens : int or None
        Independent fields that were held out of training; None for a model without calibration.
    config : DetectionConfig
        How it was detected.
    n_planes : int
        Planes of the stack.
    """
    counted_on = config.counted_on(n_planes)
    wanted = f"{counted(config.false_alarms, 'false alarm')} per {counted_on}"
    of_one = config.of_one_image(n_planes)
    if config.nfa != "size-conditional":
        return f"'{config.nfa}' is not calibrated: {wanted} holds only if the latents of normal images are ideal"
    if config.calibration == "none" or n_specimens is None:
        return f"not calibrated: {wanted} holds only if the latents of normal images are ideal"
    rests_on = (
        f"{n_specimens} held-out specimens" if n_specimens else "images of a single field, or of the training itself"
    )
    if config.calibration == "tails":
        return f"{wanted} rests on the tails fitted to {rests_on}"
    needed = specimens_needed(of_one)
    if n_specimens < needed:
        return f"{wanted} is an estimate from the tails fitted to {rests_on}: a guarantee takes {needed} held-out specimens"
    over_images = f"on average over normal images like the {rests_on}"
    if counts_images(of_one, n_specimens):
        if config.false_alarms >= 1:  # of a stack
            images = counted(config.false_alarms, "image")
            return f"any false alarm in at most {images} per {counted_on}, {over_images}"
        normal = "normal images" if counted_on == "image" else f"normal {counted_on.replace('stack', 'stacks')}"
        return f"any false alarm in at most {config.false_alarms:.3g} of {normal} like the {rests_on}, on average"
    return f"at most {wanted}, {over_images}"


# An image is called unlike the normal ones where a normal one is so with less than this probability, and where more
# than this part of its pixels are darker or brighter than 99.8 % of the normal ones. It is called larger where it has
# so many times the pixels of the images that false alarms were counted on.
_UNLIKELY = 1e-3


_OUTSIDE = 0.1


_LARGER = 16


def differences(model: TrainedModel, plane: Plane) -> list[str]:
    """Say how the image differs in size from those the model was trained on."""
    texts = []
    if min(plane.shape) < _SMALLEST:
        texts.append(
            f"'{plane.title}' is only {plane.shape[0]} x {plane.shape[1]} pixels: the model sees more reflection than "
            f"image in it, and the false-alarm guarantee does not hold"
        )
    trained = model.record.pixel_size
    if not trained or plane.pixel_size is None or plane.unit != model.record.unit:
        return texts
    ratios = [a / b for a, b in zip(plane.pixel_size, trained, strict=True)]
    if all(0.8 < ratio < 1.25 for ratio in ratios):
        return texts
    return [
        *texts,
        f"a pixel of '{plane.title}' is {plane.pixel_size[0]:g} {plane.unit}, but the model was trained on pixels of "
        f"{trained[0]:g} {plane.unit}: structures have another size, and the false-alarm guarantee does not hold",
    ]


def unlike(model: TrainedModel, plane: Plane, scores: ScoreMaps) -> list[tuple[str, str]]:
    """Say how the image as a whole differs in brightness, size and strangeness, and what that does to the guarantee."""
    texts = []
    if scores.outside > _OUTSIDE:
        text = (
            f"{scores.outside:.0%} of the pixels of '{plane.title}' are darker or brighter than those the model was "
            f"trained on: another exposure or stain, and the false-alarm guarantee does not hold"
        )
        texts.append((text, "this does not hold here: brightness is not that of the normal images"))
    if model.calibration is None:
        return texts
    times = plane.shape[0] * plane.shape[1] / max(model.calibration.n_pixels, 1.0)
    if times > _LARGER:
        text = (
            f"'{plane.title}' is {times:.0f} times as large as the images that false alarms were counted on: the "
            f"guarantee is carried over to it by theory, not by counting"
        )
        texts.append((text, "by theory, not by counting, in an image this large"))
    if model.calibration.unlike(scores.tested) < _UNLIKELY:
        text = (
            f"'{plane.title}' as a whole is unlike the normal images (focus, magnification, contrast or material): "
            f"regions are looked for against its own background, and the false-alarm guarantee does not hold"
        )
        texts.append((text, "this does not hold here: the image as a whole is unlike the normal ones"))
    return texts
