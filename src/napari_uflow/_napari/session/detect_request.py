"""Request of a detection: layers, part, channels and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from napari_uflow._napari.layers.axes import bare
from napari_uflow._napari.layers.kinds import is_image_layer
from napari_uflow._napari.layers.planes import current_plane, planes_of_layer, visible_part
from napari_uflow._napari.session.targets import Target, target_of_planes, target_of_view
from napari_uflow.config import DetectionConfig
from napari_uflow.errors import ImageError, UFlowError

if TYPE_CHECKING:
    from napari.layers import Image
    from napari.viewer import Viewer

__all__ = ["DetectRequest", "Scope"]

Scope = Literal["view", "slice", "layer", "selected"]
"""Visible part of the image, plane at the sliders, all planes, or all planes of every selected layer."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DetectRequest:
    """Choices of the Detect widget.

    Attributes
    ----------
    image : Image or None
        The layer to inspect.
    scope : {"view", "slice", "layer", "selected"}
        Part of the layer.
    channel_axis, channels
        As :func:`~napari_uflow._napari.layers.planes.planes_of_layer` takes them.
    config : DetectionConfig
        Parameters of the detection.
    mistake : str
        Error in the form of these parameters; "" if there is none.
    """

    image: Image | None = None
    scope: Scope = "layer"
    channel_axis: int | None = None
    channels: Sequence[int | str] | None = None
    config: DetectionConfig = field(default_factory=DetectionConfig)
    mistake: str = ""

    @property
    def names_images(self) -> bool:
        """True if an image is chosen, or the selected layers are; the layers themselves are not checked."""
        return self.scope == "selected" or self.image is not None

    def targets(self, viewer: Viewer) -> list[Target]:
        """Return the targets in the layers of a viewer.

        Raises
        ------
        ImageError
            If there are none.
        """
        options: dict[str, Any] = {"channel_axis": self.channel_axis, "channels": self.channels}
        point = viewer.dims.point
        targets = []
        for layer in self._layers(viewer):
            if self.scope == "view":
                view = visible_part(layer, point, **options)
                targets.append(target_of_view(layer, view, **options))
            elif self.scope == "slice":
                plane = current_plane(layer, point, **options)
                targets.append(target_of_planes(layer, [plane], "slice", **options))
            else:
                planes = planes_of_layer(layer, **options)
                targets.append(target_of_planes(layer, planes, "layer", **options))
        return targets

    def _layers(self, viewer: Viewer) -> list[Image]:
        if self.scope == "selected":
            chosen = [layer for layer in viewer.layers if is_image_layer(layer) and layer in viewer.layers.selection]
            if not chosen:
                raise ImageError("no image is selected in the layer list: select at least one, or choose another part")
            return [bare(layer) for layer in reversed(chosen)]
        if self.image is None:
            raise ImageError("open an image first")
        return [self.image]

    def counted_on(self, viewer: Viewer) -> str:
        """Return the unit of the accepted false alarms, "image" or "stack"; a single plane is not a stack."""
        unit: str = self.config.false_alarms_per
        if unit == "image":
            return unit
        try:
            return unit if any(len(target.planes) > 1 for target in self.targets(viewer)) else "image"
        except UFlowError:  # no targets yet
            return unit
