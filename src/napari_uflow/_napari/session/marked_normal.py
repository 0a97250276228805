"""Regions that the user marked normal in the results of a viewer, for the next Refine or Train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import QObject, Signal

from napari_uflow._napari.layers.axes import bare
from napari_uflow._napari.session.session import Session

if TYPE_CHECKING:
    from napari.layers import Labels

    from napari_uflow.detection.corrections import Correction
    from napari_uflow.image.region import NormalRegion

__all__ = ["Marked", "MarkedNormal", "marked_normal_of"]


@dataclass(frozen=True, eq=False)
class Marked:
    """Region that was marked normal.

    Attributes
    ----------
    labels : Labels or None
        Layer of the region; None once the layer shows another detection, in which the region cannot be restored.
    index : tuple of int
        Plane of the layer.
    correction : Correction
        The region, and the values that restore it.
    keys : (n,) array, int64
        Key of each of its pixels in the edits by hand, -1 for one that was not edited.
    """

    labels: Labels | None
    index: tuple[int, ...]
    correction: Correction
    keys: NDArray[np.int64]


class MarkedNormal(QObject):
    """Regions marked normal in the results of one viewer.

    Signals
    -------
    changed
        A region was added or removed.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._marked: list[Marked] = []

    def __len__(self) -> int:
        return len(self._marked)

    @property
    def regions(self) -> list[NormalRegion]:
        """The regions with their surroundings, as normal regions to train on."""
        return [marked.correction.normal for marked in self._marked]

    def like(self, regions: Sequence[NormalRegion]) -> list[NormalRegion]:
        """Return the regions with as many channels as others; only these can be trained on together."""
        n_channels = regions[0].plane.n_channels
        return [region for region in self.regions if region.plane.n_channels == n_channels]

    def add(
        self, labels: Labels, index: Sequence[int], correction: Correction, keys: NDArray[np.int64] | None = None
    ) -> None:
        """Add a region; `keys` are those of its pixels in the edits by hand, if there are any."""
        if keys is None:
            keys = np.full(len(correction.rows), -1)
        self._marked.append(Marked(bare(labels), tuple(index), correction, keys))
        self.changed.emit()

    def last_of(self, labels: Any) -> Marked | None:
        """Return the region marked normal last in a layer, or None."""
        if labels is None:
            return None
        of_layer = [marked for marked in self._marked if marked.labels is bare(labels)]
        return of_layer[-1] if of_layer else None

    def remove(self, correction: Correction) -> None:
        """Remove a region: it is an anomaly again."""
        self._marked = [marked for marked in self._marked if marked.correction is not correction]
        self.changed.emit()

    def detach(self, labels: Any) -> None:
        """Keep the regions of a layer, but without undo, because the layer gets another detection."""
        layer = bare(labels)
        self._marked = [replace(marked, labels=None) if marked.labels is layer else marked for marked in self._marked]

    def clear(self) -> None:
        """Remove all regions."""
        self._marked = []
        self.changed.emit()


def marked_normal_of(session: Session) -> MarkedNormal:
    """Return the regions marked normal in a viewer; one object for all its widgets."""
    for child in session.children():
        if isinstance(child, MarkedNormal):
            return child
    return MarkedNormal(session)
