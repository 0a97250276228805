"""Images of a training, known again by their pixels: files of other images may have the same names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from napari_uflow.image.grid import Window
from napari_uflow.image.plane import Plane
from napari_uflow.image.region import NormalRegion
from napari_uflow.model.record import TrainingRecord
from napari_uflow.training.regions import regions_of_training

__all__ = ["mark_of", "planes_of_training"]

# Height and width of the part of an image that it is known by.
_SIDE = 64
# Hexadecimal digits of a mark: two images of a hundred thousand have the same one by chance once in 50,000 times.
_DIGITS = 12


def mark_of(plane: Plane) -> str:
    """Return a text that an image is known by again: a checksum of its shape and of the pixels in its middle.

    Parameters
    ----------
    plane : Plane
        The image; a part of 64 x 64 pixels is read. If these have one value, its title counts, too.
    """
    height, width = (min(_SIDE, n) for n in plane.shape)
    window = Window((plane.shape[0] - height) // 2, (plane.shape[1] - width) // 2, height, width)
    values = plane.read(window)
    title = plane.title if (values == values.flat[0]).all() else ""
    text = f"{plane.n_channels} {plane.shape} {title}".encode(errors="surrogateescape")
    return hashlib.sha256(text + values.tobytes()).hexdigest()[:_DIGITS]


def planes_of_training(planes: Sequence[Plane], record: TrainingRecord, pattern: str = "") -> list[Plane]:
    """Return the images that had a part in a training, held out or not.

    Parameters
    ----------
    planes : sequence of Plane
        Any images, with the channels of the model.
    record : TrainingRecord
        Record of the training. Of a model that kept no marks of its images, those of specimens of the same name count.
    pattern : str
        Specimen pattern of the training.
    """
    if not record.image_marks:
        regions = regions_of_training([NormalRegion(plane) for plane in planes], record, pattern)
        return [region.plane for region in regions]
    known = frozenset(record.image_marks)
    return [plane for plane in planes if mark_of(plane) in known]
