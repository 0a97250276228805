"""A new labels layer to paint what is normal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_uflow._napari.layers.axes import bare, frame_of
from napari_uflow._napari.layers.transform import output_transform
from napari_uflow.errors import ImageError

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Labels

__all__ = ["add_normal_area", "new_normal_area"]


def add_normal_area(viewer: napari.viewer.Viewer, image: Image, *, channel_axis: int | None = None) -> Labels:
    """Add an empty labels layer on top of an image, selected and ready to paint on."""
    image = bare(image)
    layer = viewer.add_labels(
        frame_of(image, channel_axis).empty(np.uint8),
        name=f"{image.name}, normal area",
        opacity=0.4,
        **output_transform(image, channel_axis=channel_axis),
    )
    height, width = layer.data.shape[-2:]
    layer.brush_size = max(10, min(height, width) // 12)
    layer.selected_label = 1
    layer.mode = "paint"
    viewer.layers.selection.active = layer
    return bare(layer)


def new_normal_area(viewer: napari.viewer.Viewer) -> None:
    """Add an empty normal-area layer for the selected image; the command of the menu.

    Raises
    ------
    ImageError
        If no image is selected and there is not exactly one.
    """
    from napari_uflow._napari.layers.kinds import is_image_layer

    active: Any = viewer.layers.selection.active
    images = [layer for layer in viewer.layers if is_image_layer(layer)]
    if active is not None and is_image_layer(active):
        image = active
    elif len(images) == 1:
        image = images[0]
    else:
        raise ImageError("select the image whose normal area you want to paint")
    add_normal_area(viewer, image)
