"""Kinds of layers: images, and areas marked in them; results of the plugin are neither."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_uflow._napari.layers.axes import bare

if TYPE_CHECKING:
    from napari.layers import Layer

__all__ = ["is_area", "is_image_layer"]


def is_image_layer(layer: Layer) -> bool:
    """Return whether a layer is an image, but not a result of the plugin."""
    from napari.layers import Image

    return isinstance(bare(layer), Image) and "napari_uflow" not in layer.metadata


def is_area(layer: Layer) -> bool:
    """Return whether a layer can mark an area: shapes, or labels that are not a result of the plugin."""
    from napari.layers import Labels, Shapes

    return isinstance(bare(layer), (Labels, Shapes)) and "napari_uflow" not in layer.metadata
