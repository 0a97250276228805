"""A detection in one image layer, and the layers that show it."""

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
    """What was found in one image layer, and the layers that show it.

    Attributes
    ----------
    image_name : str
        Name of the image layer.
    planes : tuple of (tuple of int, Detection)
        For each plane where it lies in the output layers and what was found in it: ``labels.data[index]`` is the map
        of that plane. The detections count their labels from 1 each; `first_labels` makes them unique.
    heatmap, log10_nfa : Image
        The maps as layers.
    labels : Labels
        The regions, with ids that are unique over all planes.
    image : weak reference or None
        To the image layer.
    """

    image_name: str
    planes: tuple[tuple[tuple[int, ...], Detection], ...]
    heatmap: Image
    log10_nfa: Image
    labels: Labels
    image: weakref.ref[Image] | None = None

    def image_in(self, viewer: Viewer) -> Image | None:
        """Return the image layer, whatever its name is now; None where it is no longer in the viewer."""
        layer = None if self.image is None else self.image()
        return layer if layer is not None and layer in viewer.layers else None

    @property
    def detections(self) -> tuple[Detection, ...]:
        """What was found, plane by plane."""
        return tuple(found for _, found in self.planes)

    @property
    def first_labels(self) -> tuple[int, ...]:
        """For each plane the number that is added to its labels 1 to n in the labels layer."""
        firsts, n = [], 0
        for found in self.detections:
            firsts.append(n)
            n += len(found.regions)
        return tuple(firsts)

    def rows(self) -> Iterator[tuple[int, tuple[int, ...], dict[str, int | float]]]:
        """Yield id in the labels layer, index of the plane and the measurements of each region, in the order of ids."""
        for (index, found), first in zip(self.planes, self.first_labels, strict=True):
            for row in found.regions.rows():
                yield int(row["label"]) + first, index, row
