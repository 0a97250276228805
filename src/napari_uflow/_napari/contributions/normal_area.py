"""A new labels layer to paint the normal area in."""

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
    """Add an empty labels layer on top of an image, selected and in paint mode."""
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
    """Add an empty normal-area layer for the selected image (menu command).

    Raises
    ------
    ImageError
        If no image is selected and several or none are open.
    """
    from napari_uflow._napari.layers.kinds import is_image_layer

    active: Any = viewer.layers.selection.active
    images = [layer for layer in viewer.layers if is_image_layer(layer)]
    if active is not None and is_image_layer(active):
        image = active
    elif len(images) == 1:
        image = images[0]
    else:
        raise ImageError("select the image to paint on first")
    add_normal_area(viewer, image)
