"""Result of a detection in one image layer, and the layers that show it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection
    from napari_uflow.model.uflow import TrainedModel

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
    model : TrainedModel or None
        The model that found the regions.
    """

    image_name: str
    planes: tuple[tuple[tuple[int, ...], Detection], ...]
    heatmap: Image
    log10_nfa: Image
    labels: Labels
    image: weakref.ref[Image] | None = None
    model: TrainedModel | None = None

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

    def shown(self) -> tuple[tuple[tuple[int, ...], Detection], ...]:
        """Return index and detection of each plane as the labels layer shows it now, with the numbers of the layer.

        Regions that were painted or erased by hand are measured in the maps again.
        """
        if not self._can_be_edited:
            return tuple(self._numbered())
        return tuple((index, _as_shown(found, self.labels.data[index])) for index, found in self._numbered())

    @property
    def is_edited(self) -> bool:
        """True if regions were painted or erased by hand."""
        return self._can_be_edited and any(
            not np.array_equal(found.labels, self.labels.data[index]) for index, found in self._numbered()
        )

    @property
    def _can_be_edited(self) -> bool:
        """False for a large result, whose layer is multiscale: napari does not paint in it."""
        return not self.labels.multiscale

    def _numbered(self) -> Iterator[tuple[tuple[int, ...], Detection]]:
        """Yield the detections with the numbers that the labels layer had at first."""
        for (index, found), first in zip(self.planes, self.first_labels, strict=True):
            yield index, found.numbered_after(first)

    def rows(self) -> Iterator[tuple[int, tuple[int, ...], dict[str, int | float]]]:
        """Yield label, index of the plane, and measurements of each region shown, plane by plane."""
        for index, found in self.shown():
            for row in found.regions.rows():
                yield int(row["label"]), index, row


def _as_shown(found: Detection, labels: NDArray[Any]) -> Detection:
    """Return a detection with the regions of other labels; the same one if they do not differ."""
    if np.array_equal(found.labels, labels):
        return found
    from napari_uflow.detection.regions import RegionTable

    shown = np.array(labels, dtype=np.int32)
    numbers = np.unique(shown[shown > 0])
    counted_from_1 = np.where(shown > 0, np.searchsorted(numbers, shown) + 1, 0).astype(np.int32)
    regions = RegionTable.measure(counted_from_1, found.log10_nfa, found.score, found.pixel_size)
    differs = found.labels != shown
    edited = np.isin(numbers, np.union1d(shown[differs], found.labels[differs])).astype(np.int8)
    return replace(found, labels=shown, regions=replace(regions, label=numbers, is_edited=edited))
