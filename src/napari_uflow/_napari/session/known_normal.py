"""What the user called normal in the results of one viewer: more to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_uflow._napari.layers.areas import normal_regions
from napari_uflow._napari.layers.axes import bare, finest
from napari_uflow._napari.layers.planes import current_plane
from napari_uflow._napari.session.session import Session
from napari_uflow.errors import ImageError

if TYPE_CHECKING:
    from napari.layers import Image, Labels

    from napari_uflow.detection.corrections import Correction
    from napari_uflow.image.plane import Plane
    from napari_uflow.image.region import NormalRegion

__all__ = ["KnownNormal", "Place", "channel_options", "known_normal_of", "place_of"]


@dataclass(frozen=True, eq=False)
class _Known:
    """A region that was called normal: the layer and the plane in which it was reported, and what it was.

    The layer is None once it shows another detection, in which the region cannot be brought back.
    """

    labels: Labels | None
    index: tuple[int, ...]
    correction: Correction


class KnownNormal(QObject):
    """The regions of one viewer that were reported and that the user called normal.

    Signals
    -------
    changed
        A region was added or taken back.
    """

    changed = Signal()

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._known: list[_Known] = []

    def __len__(self) -> int:
        return len(self._known)

    @property
    def regions(self) -> list[NormalRegion]:
        """The regions with their surroundings, to train on together with what is normal otherwise."""
        return [known.correction.normal for known in self._known]

    def add(self, labels: Labels, index: Sequence[int], correction: Correction) -> None:
        """Add a region."""
        self._known.append(_Known(bare(labels), tuple(index), correction))
        self.changed.emit()

    def last_of(self, labels: Any) -> tuple[tuple[int, ...], Correction] | None:
        """Return plane and region that were called normal last in a layer, or None."""
        if labels is None:
            return None
        of_layer = [known for known in self._known if known.labels is bare(labels)]
        return (of_layer[-1].index, of_layer[-1].correction) if of_layer else None

    def remove(self, correction: Correction) -> None:
        """Take a region back."""
        self._known = [known for known in self._known if known.correction is not correction]
        self.changed.emit()

    def let_go(self, labels: Any) -> None:
        """Keep the regions of a layer that gets another detection, but none of them can be taken back in it."""
        layer = bare(labels)
        self._known = [replace(known, labels=None) if known.labels is layer else known for known in self._known]

    def clear(self) -> None:
        """Forget all."""
        self._known = []
        self.changed.emit()


def known_normal_of(session: Session) -> KnownNormal:
    """Return what was called normal in a viewer; the same object for all its widgets."""
    for child in session.children():
        if isinstance(child, KnownNormal):
            return child
    return KnownNormal(session)


@dataclass(frozen=True, eq=False)
class Place:
    """Where a plane of a result lies in the layer that was looked at.

    Attributes
    ----------
    plane : Plane
        The image, of the size of the result.
    field : str
        The field it comes from.
    at : mapping of str to int
        Position on the axes of the stack.
    row, col : int
        Its first pixel in the image.
    """

    plane: Plane
    specimen: str
    at: Mapping[str, int]
    row: int
    col: int


def place_of(image: Image, labels: Labels, index: Sequence[int]) -> Place:
    """Return the image in which a plane of a result was found.

    Parameters
    ----------
    image : Image
        The layer that was looked at.
    labels : Labels
        What was found, in whole planes of the layer or in a part of one.
    index : sequence of int
        Where the plane lies in the labels.

    Raises
    ------
    ImageError
        If the layer no longer is what was looked at.
    """
    options = channel_options(labels)
    world = np.asarray(labels.data_to_world((*index, 0, 0)), dtype=float)
    plane = current_plane(image, world.tolist(), **options)
    specimen = next(r.specimen for r in normal_regions(image, **options) if r.plane.index == plane.index)
    start = np.zeros(image.ndim)
    start[image.ndim - len(world) :] = world
    row, col = (round(float(value)) for value in image.world_to_data(start)[-2:])
    height, width = finest(labels).shape[-2:]
    if min(row, col) < 0 or row + height > plane.shape[0] or col + width > plane.shape[1]:
        raise ImageError(f"'{image.name}' no longer is what was looked at: detect again")
    at = dict(plane.index)
    if (height, width) != plane.shape:
        plane = _part(plane, slice(row, row + height), slice(col, col + width))
    return Place(plane, specimen, at, row, col)


def channel_options(labels: Labels) -> dict[str, Any]:
    """Return which channels were looked at, as the layer functions take them."""
    known = labels.metadata.get("napari_uflow", {})
    return {"channel_axis": known.get("channel_axis"), "channels": known.get("channels")}


def _part(plane: Plane, rows: slice, cols: slice) -> Plane:
    key: list[Any] = []
    for axis in plane.axes:
        if axis in "YX":
            key.append(rows if axis == "Y" else cols)
        else:
            key.append(slice(None) if axis in "CS" else plane.index[axis])
    axes = "".join(axis for axis in plane.axes if axis in "YXCS")
    return replace(plane, data=plane.data[tuple(key)], axes=axes, index={}, name=plane.title)
