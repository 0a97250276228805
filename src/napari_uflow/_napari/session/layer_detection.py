"""Result of a detection in one image layer, and the layers that show it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection

__all__ = ["LayerDetection"]


@dataclass(frozen=True, eq=False)
class LayerDetection:
    """Result of a detection in one image layer.

    Attributes
    ----------
    image_name : str
        Name of the image layer.
    planes : tuple of (tuple of int, Detection)
        Index in the output layers and detection of each plane: ``labels.data[index]`` is the map of that plane. Each
        detection counts its labels from 1; `first_labels` makes them unique.
    heatmap, log10_nfa : Image
        The maps as layers.
    labels : Labels
        The regions, with ids unique over all planes.
    image : weak reference or None
        The image layer.
    """

    image_name: str
    planes: tuple[tuple[tuple[int, ...], Detection], ...]
    heatmap: Image
    log10_nfa: Image
    labels: Labels
    image: weakref.ref[Image] | None = None

    def image_in(self, viewer: Viewer) -> Image | None:
        """Return the image layer, which may have been renamed; None if it is no longer in the viewer."""
        layer = None if self.image is None else self.image()
        return layer if layer is not None and layer in viewer.layers else None

    @property
    def detections(self) -> tuple[Detection, ...]:
        """Detection of each plane."""
        return tuple(found for _, found in self.planes)

    @property
    def first_labels(self) -> tuple[int, ...]:
        """Offset of the labels of each plane in the labels layer."""
        firsts, n = [], 0
        for found in self.detections:
            firsts.append(n)
            n += len(found.regions)
        return tuple(firsts)

    def rows(self) -> Iterator[tuple[int, tuple[int, ...], dict[str, int | float]]]:
        """Yield label, index of the plane, and measurements of each region, in the order of labels."""
        for (index, found), first in zip(self.planes, self.first_labels, strict=True):
            for row in found.regions.rows():
                yield int(row["label"]) + first, index, row
