"""Types of pixels in a training: one value is another brightness in 8 and in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from napari_uflow.image.region import NormalRegion
from napari_uflow.progress import Message
from napari_uflow.training.pixel_size import images_of
from napari_uflow.wording import counted

__all__ = ["messages_about_pixel_types"]


def messages_about_pixel_types(regions: Sequence[NormalRegion]) -> Iterator[Message]:
    """Yield a warning if the images of a training have pixels of different types; all real numbers count as one.

    Parameters
    ----------
    regions : sequence of NormalRegion
        Regions as they were given, before they are resampled.
    """
    examples: dict[str, list[str]] = {}
    for plane in images_of(regions):
        dtype = np.dtype(plane.data.dtype)
        examples.setdefault("float" if dtype.kind == "f" else dtype.name, []).append(plane.title)
    if len(examples) > 1:
        listed = ", ".join(
            f"{counted(len(names), 'image')} of {kind} ('{names[0]}')" for kind, names in examples.items()
        )
        yield Message(
            f"the images have pixels of different types: {listed}; the same value is another brightness in each, so "
            "train on images of one type, such as 16 bits from the same camera setting",
            warning=True,
        )
