"""The pixel size of a training: images of other known sizes are brought to it before the network sees them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from napari_uflow.config import ModelConfig
from napari_uflow.detection.caveats import SAME_PIXEL_SIZE
from napari_uflow.detection.magnification import pixel_size_ratios, relative_magnification, trained_pixel_size
from napari_uflow.image.pixel_size import PixelSize, median_pixel_size
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.image.scaled import scaled_regions
from napari_uflow.model.uflow import TrainedModel
from napari_uflow.progress import Message
from napari_uflow.wording import counted

__all__ = ["images_of", "messages_about_pixel_sizes", "reference_pixel_size", "working_regions"]


def reference_pixel_size(regions: Sequence[NormalRegion], init_from: TrainedModel | None) -> PixelSize | None:
    """Return the pixel size that images are brought to: that of a resumed model, or else the median of the images.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of the training.
    init_from : TrainedModel or None
        Model that is resumed; its features are of its pixel size, known or not.
    """
    return median_pixel_size(images_of(regions)) if init_from is None else trained_pixel_size(init_from.record)


def working_regions(
    regions: Sequence[NormalRegion], config: ModelConfig, pixel_size: PixelSize | None
) -> list[NormalRegion]:
    """Return regions as the network sees them, each at its own magnification.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions of the training.
    config : ModelConfig
        Parts of the model, with its magnification.
    pixel_size : PixelSize or None
        From :func:`reference_pixel_size`.
    """
    own = [config.magnification * relative_magnification(config, pixel_size, region.plane) for region in regions]
    return scaled_regions(regions, own)


def messages_about_pixel_sizes(
    regions: Sequence[NormalRegion], config: ModelConfig, pixel_size: PixelSize | None, *, is_of_model: bool
) -> Iterator[Message]:
    """Yield how many images are resampled to another pixel size, and how many should be and cannot.

    Parameters
    ----------
    regions, config, pixel_size
        As for :func:`working_regions`.
    is_of_model : bool
        The pixel size is that of a resumed model.
    """
    if pixel_size is None:
        return
    images = images_of(regions)
    ratios = [pixel_size_ratios(pixel_size, plane) for plane in images]
    resampled = [relative_magnification(config, pixel_size, plane) != 1 for plane in images]
    if any(resampled):
        n_unknown = sum(ratio is None for ratio in ratios)
        rest = f"; {counted(n_unknown, 'image')} without a comparable pixel size taken as they are" if n_unknown else ""
        yield Message(
            f"{sum(resampled)} of {counted(len(images), 'image')} resampled to a pixel size of {pixel_size.text()}, "
            f"{'that of the model' if is_of_model else 'the median of the images'}{rest}"
        )
    low, high = SAME_PIXEL_SIZE
    others = [
        plane
        for plane, of, is_resampled in zip(images, ratios, resampled, strict=True)
        if of and not is_resampled and not (low < min(of) and max(of) < high)
    ]
    if others:
        own = PixelSize.of(others[0])
        yield Message(
            f"{counted(len(others), 'image')} cannot be resampled to a pixel size of {pixel_size.text()}, which is too "
            f"far from theirs ('{others[0].title}': {own and own.text()}): structures appear at another scale there",
            warning=True,
        )


def images_of(regions: Sequence[NormalRegion]) -> list[Plane]:
    """Return the images of the regions, each once."""
    return list({(id(r.plane.data), *sorted(r.plane.index.items())): r.plane for r in regions}.values())
