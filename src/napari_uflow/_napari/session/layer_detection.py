"""Result of a detection in one image layer, and the layers that show it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from napari_uflow._napari.session.hand_edits import HandEdits, Numbering

if TYPE_CHECKING:
    from napari.layers import Image, Labels
    from napari.viewer import Viewer

    from napari_uflow.detection.result import Detection
    from napari_uflow.model.uflow import TrainedModel

__all__ = ["LayerDetection", "ShownPlane"]

Edited = Literal["no", "changed", "painted"]
"""Regions as they were detected, detected ones that were changed by hand, and those painted by hand."""


@dataclass(frozen=True, eq=False)
class ShownPlane:
    """A plane as the labels layer shows it.

    Attributes
    ----------
    index : tuple of int
        Index in the labels layer.
    found : Detection
        Detection with the regions shown, and the numbers of the layer.
    edited : tuple of {"no", "changed", "painted"}
        How each region was edited by hand.
    """

    index: tuple[int, ...]
    found: Detection
    edited: tuple[Edited, ...]


@dataclass(frozen=True, eq=False)
class LayerDetection:
    """Result of a detection in one image layer.

    Attributes
    ----------
    image_name : str
        Name of the image layer.
    planes : tuple of (tuple of int, Detection)
        Index in the output layers and detection of each plane, as it was before edits by hand, with labels from 1.
    heatmap, log10_nfa : Image
        The maps as layers.
    labels : Labels
        The regions, with ids unique over all planes.
    image : weak reference or None
        The image layer.
    model : TrainedModel or None
        The model that found the regions.
    edits : HandEdits
        What was painted and erased by hand before the labels layer was last written; :meth:`with_edits` adds what was
        since.
    """

    image_name: str
    planes: tuple[tuple[tuple[int, ...], Detection], ...]
    heatmap: Image
    log10_nfa: Image
    labels: Labels
    image: weakref.ref[Image] | None = None
    model: TrainedModel | None = None
    edits: HandEdits = field(default_factory=HandEdits)

    def image_in(self, viewer: Viewer) -> Image | None:
        """Return the image layer, which may have been renamed; None if it is no longer in the viewer."""
        layer = None if self.image is None else self.image()
        return layer if layer is not None and layer in viewer.layers else None

    @property
    def detections(self) -> tuple[Detection, ...]:
        """Detection of each plane."""
        return tuple(found for _, found in self.planes)

    @property
    def n_unjudged(self) -> int:
        """Planes that could not be judged: not measured, or excluded from the guarantee."""
        return sum(not found.is_judged for found in self.detections)

    def with_edits(self) -> LayerDetection:
        """Return the result with all that was painted and erased by hand until now."""
        if not self._can_be_edited:
            return self
        labels = {index: self.labels.data[index] for index, _ in self.planes}
        return replace(self, edits=Numbering(self.planes, self.edits).read(labels))

    def shown(self) -> tuple[ShownPlane, ...]:
        """Return each plane as the labels layer shows it now, with the numbers of the layer.

        Regions that were painted or erased by hand are measured in the maps again.
        """
        if not self._can_be_edited:
            return tuple(ShownPlane(index, found, _all_detected(found)) for index, found in self._numbered())
        return tuple(_as_shown(index, found, self.labels.data[index]) for index, found in self._numbered())

    @property
    def is_edited(self) -> bool:
        """True if the regions shown differ from those detected."""
        return self._can_be_edited and any(
            not np.array_equal(found.labels, self.labels.data[index]) for index, found in self._numbered()
        )

    @property
    def _can_be_edited(self) -> bool:
        """False for a large result, whose layer is multiscale: napari does not paint in it."""
        return not self.labels.multiscale

    def _numbered(self) -> Iterator[tuple[tuple[int, ...], Detection]]:
        """Yield the detections with the numbers of the labels layer, without edits by hand."""
        first = 0
        for index, found in self.planes:
            yield index, found.numbered_after(first)
            first += len(found.regions)


def _all_detected(found: Detection) -> tuple[Edited, ...]:
    as_detected: Edited = "no"
    return (as_detected,) * len(found.regions)


def _as_shown(index: tuple[int, ...], found: Detection, labels: NDArray[Any]) -> ShownPlane:
    """Return a plane with the regions of other labels; the detection itself if they do not differ."""
    is_edited = found.labels != labels
    if not is_edited.any():
        return ShownPlane(index, found, _all_detected(found))
    from napari_uflow.detection.regions import RegionTable

    shown = np.array(labels, dtype=np.int32)
    numbers = np.unique(shown[shown > 0])
    counted_from_1 = np.where(shown > 0, np.searchsorted(numbers, shown) + 1, 0).astype(np.int32)
    regions = RegionTable.measure(counted_from_1, found.log10_nfa, found.score, found.pixel_size)
    detected = set(found.regions.label.tolist())
    changed = set(np.union1d(found.labels[is_edited], shown[is_edited]).tolist())
    edited: tuple[Edited, ...] = tuple(
        "painted" if number not in detected else "changed" if number in changed else "no" for number in numbers.tolist()
    )
    by_hand = np.array([how != "no" for how in edited], dtype=np.int8)
    regions = replace(regions, label=numbers, is_edited=by_hand)
    return ShownPlane(index, replace(found, labels=shown, regions=regions), edited)
