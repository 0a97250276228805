"""The layers that a model is trained on, and the normal area in them."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from napari_uflow._napari.layers.areas import SpecimenRule, normal_regions
from napari_uflow._napari.layers.axes import bare
from napari_uflow.errors import ImageError
from napari_uflow.image.region import NormalRegion

if TYPE_CHECKING:
    from napari.components import LayerList
    from napari.layers import Image, Labels, Shapes

__all__ = ["Recipe"]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Choice of layers to train on, by weak references.

    Attributes
    ----------
    images : tuple of weak references to Image
        The images.
    normal, ignore : weak reference to Labels or Shapes, or None
        Layer of the normal area, None for whole images; and layer of the area to leave out.
    specimens, channel_axis, channels
        As in :func:`~napari_uflow._napari.layers.areas.normal_regions`.
    image_specimens : {"names", "one", "each"}
        Rule for the specimens of separate images: by name, as in `training.regions`; all from one; or each from a
        different one. An axis of specimens in a stack comes first.
    """

    images: tuple[weakref.ref[Any], ...]
    normal: weakref.ref[Any] | None
    ignore: weakref.ref[Any] | None
    specimens: SpecimenRule
    channel_axis: int | None
    channels: tuple[int | str, ...] | None
    image_specimens: SpecimenRule = "names"

    @classmethod
    def of(
        cls,
        images: Sequence[Image],
        normal: Labels | Shapes | None = None,
        ignore: Labels | Shapes | None = None,
        *,
        specimens: SpecimenRule = "names",
        channel_axis: int | None = None,
        channels: Sequence[int | str] | None = None,
        image_specimens: SpecimenRule = "names",
    ) -> Recipe:
        """Make a recipe of layers."""
        on, off = (None if layer is None else weakref.ref(bare(layer)) for layer in (normal, ignore))
        images = tuple(weakref.ref(bare(layer)) for layer in images)
        chosen = None if channels is None else tuple(channels)
        return cls(images, on, off, specimens, channel_axis, chosen, image_specimens)

    def is_open(self, layers: LayerList) -> bool:
        """Return whether all layers are in a layer list."""
        return all(ref() is not None and ref() in layers for ref in (*self.images, self.normal, self.ignore) if ref)

    def regions(self) -> list[NormalRegion]:
        """Return the normal regions of the layers.

        Raises
        ------
        ImageError
            If there are none, or a layer was closed.
        """
        images = [ref() for ref in self.images]
        if not images:
            raise ImageError("Tick at least one normal image.")
        areas = [None if ref is None else ref() for ref in (self.normal, self.ignore)]
        if any(image is None for image in images):
            raise ImageError("an image to train on was closed: tick the images again")
        found: list[NormalRegion] = []
        for image in images:
            regions = normal_regions(
                image,
                *areas,
                specimens=self.specimens,
                channel_axis=self.channel_axis,
                channels=self.channels,
                may_be_empty=len(images) > 1,
            )
            if self.image_specimens != "names":
                name = getattr(image if self.image_specimens == "each" else images[0], "name", "")
                regions = [r if r.has_given_specimen else r.of_specimen(name) for r in regions]
            found += regions
        if not found:
            raise ImageError(
                "these images have no normal area: paint over their normal parts, or choose the whole image"
            )
        return found
